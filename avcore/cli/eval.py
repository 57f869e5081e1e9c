"""``avcore eval``: evaluate a finished run again, on another split, checkpoint or folder."""

import contextlib
import sys
from dataclasses import replace

import click

__all__ = ["evaluate"]

JSON_HELP = 'Print {"run", "checkpoint", "metrics": {split: {name: score}}, "published": [...]}.'


@click.command()
@click.argument("directory", metavar="RUN")
@click.option("--split", "splits", multiple=True, help="Split to evaluate (repeatable).  [default: test]")
@click.option(
    "--checkpoint", type=click.Choice(["best", "latest"]), default="best", show_default=True, help="Weights to use."
)
@click.option("--data", metavar="PATH", help="Folder of other data of the same task.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: that of the run]")
@click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
def evaluate(
    directory: str, splits: tuple[str, ...], checkpoint: str, data: str | None, device: str | None, as_json: bool
) -> None:
    """Evaluate a run. Splits are val, test, ...

    At its end a split's name says what clips are given instead of their own: test_swapped (another clip's sound),
    test_noise or test_noise-10 (white noise, as loud as the clip's sound or 10 dB below), test_mute_audio,
    test_mute_visual, test_mute_both (no sound, no pictures, neither).

    Beside the scores stands what the run's recipe says was published, where the data are those of the paper.

    \b
    Examples:
      avcore eval runs/NAME --split test --split test_swapped
      avcore eval runs/NAME --data FOLDER
    """  # noqa: D301 - click's mark for unwrapped lines
    import avcore
    from avcore.engine.files import json_text
    from avcore.report.published import published_scores, render_published
    from avcore.report.tables import render_table

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        run = avcore.load_run(directory, checkpoint=checkpoint, data=data, device=device)
        metrics = {split: run.evaluate(split) for split in splits or ("test",)}
        measured = replace(
            run.results,
            metrics=metrics,
            clips={**run.results.clips, **run.data.listed},
            broken=run.data.broken,
            without_truth=run.data.without_truth,
        )
        same_data = run.config.data.dataset == run.results.dataset
        beside = published_scores(measured, run.registry) if same_data else []
    if as_json:
        head = {"run": str(run.directory), "checkpoint": checkpoint}
        click.echo(json_text({**head, "metrics": metrics, "published": beside}))
        return
    names = list(dict.fromkeys(name for scores in metrics.values() for name in scores))
    rows = [[split, *(scores.get(name) for name in names)] for split, scores in metrics.items()]
    click.echo(render_table(["split", *names], rows, f"{run.directory}, {checkpoint} checkpoint"))
    if beside:
        click.echo(f"\n{render_published(beside, measured)}")
