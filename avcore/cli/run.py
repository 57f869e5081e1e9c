"""``avcore run``: train, evaluate, show the result."""

import contextlib
import sys
from typing import Any

import click

from avcore.cli.options import ConfigCommand, config_options

__all__ = ["run"]


@click.command(cls=ConfigCommand)
@config_options
@click.option("--out", metavar="DIR", help="Directory of the run, new or empty.  [default: runs/TASK-METHOD-TIME]")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[DIR]",
    help="Go on with the run in DIR; without DIR with that in --out, or begin it there.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="Train with so many seeds; report mean ± sd.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json and published scores; the rest is on stderr.")
def run(file: str | None, sets: tuple[str, ...], resume: str | None, as_json: bool, **given: Any) -> None:
    """Train a method on a task, evaluate it, and write everything into a directory.

    Without --data it runs on a small demo that is made on the spot.

    \b
    Examples:
      avcore run --plugin copl --task avs
      avcore run --plugin copl --task avs --data FOLDER --visual vit_tiny_patch16_224
      avcore run --plugin copl --task TASK --data FOLDER           your own clips, where the task reads such
      avcore run --config runs/NAME/config.yaml          repeat a run
      avcore run --resume runs/NAME                      go on with one that was stopped
      avcore run --plugin copl --task avs --out runs/a --resume    ... or begin it: a job that may be queued again
    """  # noqa: D301 - click's mark for unwrapped lines
    from avcore.engine.signals import Signals

    # Also while torch is imported.
    with Signals(), contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        import avcore

        done = avcore.run(**given, config=file, set=sets, resume=True if resume == "" else resume)
    from avcore.ranks import ranks

    if as_json and ranks().first:
        from avcore.engine.files import json_text
        from avcore.report.published import published_scores

        beside = published_scores(done.results, done.registry)
        click.echo(json_text({"directory": str(done.directory), **done.results.to_json(), "published": beside}))
