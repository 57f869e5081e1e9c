"""``avcore eval``: evaluate a finished run again, on another split, checkpoint or folder."""

import contextlib
import sys

import click

__all__ = ["evaluate"]


@click.command()
@click.argument("directory", metavar="RUN")
@click.option("--split", "splits", multiple=True, help="Split to evaluate (repeatable).  [default: test]")
@click.option(
    "--checkpoint", type=click.Choice(["best", "latest"]), default="best", show_default=True, help="Weights to use."
)
@click.option("--data", metavar="PATH", help="Folder of other data of the same task.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: that of the run]")
@click.option("--json", "as_json", is_flag=True, help='Print {"run", "checkpoint", "metrics": {split: {name: score}}}.')
def evaluate(
    directory: str, splits: tuple[str, ...], checkpoint: str, data: str | None, device: str | None, as_json: bool
) -> None:
    """Evaluate a run. Splits are val, test, ... ; test_swapped and test_mute_audio give clips another sound or none.

    \b
    Examples:
      avcore eval runs/NAME --split val --split test_swapped
      avcore eval runs/NAME --data FOLDER
    """  # noqa: D301 - click's mark for unwrapped lines
    import avcore
    from avcore.engine.files import json_text
    from avcore.report.tables import render_table

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        run = avcore.load_run(directory, checkpoint=checkpoint, data=data, device=device)
        metrics = {split: run.evaluate(split) for split in splits or ("test",)}
    if as_json:
        click.echo(json_text({"run": str(run.directory), "checkpoint": checkpoint, "metrics": metrics}))
        return
    names = list(dict.fromkeys(name for scores in metrics.values() for name in scores))
    rows = [[split, *(scores.get(name) for name in names)] for split, scores in metrics.items()]
    click.echo(render_table(["split", *names], rows, f"{run.directory}, {checkpoint} checkpoint"))
