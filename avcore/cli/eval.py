"""``avcore eval``: evaluate a finished run again, on another split, checkpoint or folder; or what needs no training."""

import contextlib
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from avcore.cli.options import refuse_without, zero_shot_options

__all__ = ["evaluate"]

JSON_HELP = (
    'Print {"run", "checkpoint", "metrics": {split: {name: score}}, "shapley": {...}, "published": [...], '
    '"notes": [...]}.'
)


@click.command()
@click.argument("directory", metavar="[RUN]", required=False)
@click.option(
    "--zero-shot", is_flag=True, help="No RUN, no training: the names of the classes of a task's data decide."
)
@zero_shot_options
@click.option("--protocol", metavar="clean|paper", help="With --zero-shot: as published, or clean.  [default: clean]")
@click.option("--split", "splits", multiple=True, help="Split to evaluate (repeatable).  [default: test]")
@click.option(
    "--shapley",
    is_flag=True,
    help="Evaluate each split without sound, without pictures and without both too: what each stream brings.",
)
@click.option(
    "--drop",
    type=click.Choice(["audio", "visual"]),
    multiple=True,
    help="Evaluate each split without this stream in a quarter of its clips, half, three quarters, all (repeatable).",
)
@click.option(
    "--checkpoint", type=click.Choice(["best", "latest"]), default="best", show_default=True, help="Weights to use."
)
@click.option("--data", metavar="PATH", help="Folder of other data of the same task.")
@click.option("--out", metavar="DIR", help="With --zero-shot: write config.yaml and results.json into a new folder.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: that of the run]")
@click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
def evaluate(
    directory: str | None,
    zero_shot: bool,
    protocol: str | None,
    splits: tuple[str, ...],
    shapley: bool,
    drop: tuple[str, ...],
    checkpoint: str,
    data: str | None,
    out: str | None,
    device: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Evaluate a run, or with --zero-shot what needs none. Splits are val, test, ...

    At its end a split's name says what clips are given instead of their own: test_swapped (another clip's sound),
    test_noise or test_noise-10 (white noise, as loud as the clip's sound or 10 dB below), test_mute_audio,
    test_mute_visual, test_mute_both (no sound, no pictures, neither), test_drop_audio-30 or test_drop_visual-30
    (nothing of that stream in 30 % of the clips, the same ones in every evaluation with this seed).

    With --shapley two rows say what the pictures and what the sound bring to each score: the mean of what they add to
    the other and what they add to nothing, (both - without it + only it - neither) / 2. What is left out is muted.

    Beside the scores stands what the run's recipe says was published, where the data are those of the paper, and what
    the reader says of the files.

    \b
    Examples:
      avcore eval runs/NAME --split test --split test_swapped
      avcore eval runs/NAME --shapley
      avcore eval runs/NAME --drop audio --drop visual
      avcore eval runs/NAME --data FOLDER
      avcore eval --zero-shot --task TASK --data FOLDER --visual NAME --text NAME
    """  # noqa: D301 - click's mark for unwrapped lines
    import avcore
    from avcore.config import Resolved
    from avcore.data.changes import with_dropped, with_muted
    from avcore.engine.clips import write_clips
    from avcore.engine.device import choose_device
    from avcore.engine.files import json_text
    from avcore.engine.records import RunRecord, peak_bytes, refuse_used
    from avcore.errors import ConfigError
    from avcore.report.published import published_scores, render_published
    from avcore.report.tables import brought_by, render_table

    if zero_shot == (directory is not None):
        raise click.UsageError("Give one of the two: RUN, the folder of a run, or --zero-shot with --task.")
    if not zero_shot:
        refuse_without("--zero-shot", **chosen, protocol=protocol, out=out)
    begun = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        if directory is None:
            run = avcore.zero_shot(data=data, set=chosen.pop("sets"), protocol=protocol, device=device, **chosen)
            if out is not None:
                refuse_used(Path(out), resume=True)
        else:
            run = avcore.load_run(directory, checkpoint=checkpoint, data=data, device=device)
        of = directory or f"{run.config.task} without training"
        if shapley and run.config.streams != "both":
            raise ConfigError(f"--shapley compares two streams, and {of} has {run.config.streams} only: omit it.")
        wanted = splits or ("test",)
        measured = replace(run.results, metrics={})
        known = run.data.dataset.splits
        asked = [*(with_muted(wanted, known) if shapley else wanted), *with_dropped(wanted, drop, known)]
        found = {split: run.examine(split, alone=out is not None) for split in dict.fromkeys(asked)}
        for split, one in found.items():
            measured = measured.measured(split, one.scores)
        metrics = measured.metrics
        measured = replace(
            measured,
            clips={**run.results.clips, **run.data.listed},
            broken=run.data.broken,
            without_truth=run.data.without_truth,
        )
        if out is not None:
            done = replace(measured, status="finished", seconds=round(time.monotonic() - begun, 3))
            with closing(RunRecord(Path(out), resume=True)) as record:
                for split, one in found.items():
                    write_clips(Path(out), split, one.alone)
                record.write_results(replace(done, peak_bytes=peak_bytes(choose_device(run.config.device))))
                record.write_config(Resolved(config=run.config, origins={}).yaml())
        same_data = run.config.data.dataset == run.results.dataset
        beside = published_scores(measured, run.registry) if same_data else []
        notes = list(run.data.dataset.notes())
    if as_json:
        head = {"run": directory and str(run.directory), "checkpoint": directory and checkpoint}
        click.echo(
            json_text({**head, "metrics": metrics, "shapley": measured.shapley, "published": beside, "notes": notes})
        )
        return
    names = list(dict.fromkeys(name for scores in metrics.values() for name in scores))
    rows = [
        [split, *(scores.get(name) for name in names)]
        for split, scores in {**metrics, **brought_by(measured.shapley)}.items()
    ]
    click.echo(render_table(["split", *names], rows, f"{of}, {checkpoint} checkpoint" if directory else of))
    if beside:
        click.echo(f"\n{render_published(beside, measured)}")
    if notes:
        click.echo("\n" + "\n".join(notes))
