"""``avcore config``: every setting of a run and the layer that it comes from. Imports no torch."""

import json
from typing import Any

import click

from avcore.cli.options import ConfigCommand, config_options, resolve_from_options
from avcore.cli.usage import UsageGroup
from avcore.config import core_schema, run_schema
from avcore.config.leaves import flatten
from avcore.registry import load_registry

__all__ = ["config"]


@click.group(cls=UsageGroup)
def config() -> None:
    """Look at the configuration of a run."""


@config.command(cls=ConfigCommand)
@config_options
@click.option("--yaml", "as_yaml", is_flag=True, help="Print a file for --config.")
@click.option("--json", "as_json", is_flag=True, help='Print {key: {"value": ..., "layer": ...}}.')
def show(as_yaml: bool, as_json: bool, **given: Any) -> None:
    """Print each setting with its value and the layer that it comes from.

    Takes the options of 'avcore run', shows what it would use, the same data set too, and trains nothing. Later layers
    win: default, task, method, recipe, dataset, file (--config), option, --set.

    \b
    Example:
      avcore config show --plugin copl --task avs --set optim.lr=1e-4
    """  # noqa: D301 - click's mark for unwrapped lines
    resolved = resolve_from_options(**given)
    if as_yaml:
        click.echo(resolved.yaml(), nl=False)
        return
    values = flatten(resolved.tree())
    if as_json:
        rows = {key: {"value": value, "layer": resolved.origins[key]} for key, value in values.items()}
        click.echo(json.dumps(rows, indent=2))
        return
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    key_width = max(map(len, texts))
    value_width = min(40, max(map(len, texts.values())))
    for key, text in texts.items():
        click.echo(f"{key:<{key_width}}  {text:<{value_width}}  {resolved.origins[key]}")


@config.command(cls=ConfigCommand)
@config_options
def schema(**given: Any) -> None:
    """Print a JSON Schema of the settings, for editors and programs.

    Without options, that of what every run has; with those of 'avcore run', also of its parts, backbones, head, task
    and data set. Ranges are checked when a run is configured, not by the schema.

    \b
    Examples:
      avcore config schema > avcore.schema.json
      avcore config schema --plugin copl --task avs
    """  # noqa: D301 - click's mark for unwrapped lines
    asked = any(value is not None and value != () for value in given.values())
    found = (
        run_schema(resolve_from_options(need_data=False, **given).config, load_registry()) if asked else core_schema()
    )
    click.echo(json.dumps(found, indent=2))
