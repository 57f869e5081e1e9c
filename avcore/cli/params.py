"""``avcore params``: what a model is made of, counted without weights."""

import json
from pathlib import Path
from typing import Any

import click

from avcore.cli.options import ConfigCommand, config_options, resolve_from_options
from avcore.errors import ConfigError

__all__ = ["params"]


@click.command(cls=ConfigCommand)
@click.argument("directory", metavar="[RUN]", required=False)
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def params(directory: str | None, file: str | None, as_json: bool, **given: Any) -> None:
    """Count the parameters of a model, or of the model of a RUN: by stream, part and head, beside published counts.

    Takes the options of 'avcore run'. No weights and no data are read, so that a model of any size can be counted.
    Where no data are named, a recipe is counted as published, not with the sizes of the demo.

    \b
    Examples:
      avcore params --plugin copl --task avs --visual vit_large_patch16_224.augreg_in21k
      avcore params runs/NAME --json
    """  # noqa: D301 - click's mark for unwrapped lines
    resolved = resolve_from_options(need_data=False, file=_config_file(directory, file), **given)

    from avcore.assemble import assemble
    from avcore.registry import load_registry
    from avcore.report.parameters import count_parameters

    model = assemble(resolved.config, load_registry(), meta=True)
    report = count_parameters(model, resolved.recipe.published if resolved.recipe else ())
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        config = resolved.config
        click.echo(report.render(config.visual.backbone, config.audio.backbone, config.streams))


def _config_file(directory: str | None, file: str | None) -> str | None:
    """The configuration of a run, or the file of ``--config``."""
    if directory is None:
        return file
    if file is not None:
        raise ConfigError(f"Give either the run {directory} or --config {file}, not both.")
    found = Path(directory) / "config.yaml"
    if not found.is_file():
        raise ConfigError(f"{directory} is not the directory of a run: it has no config.yaml.")
    return str(found)
