"""``avcore predict``: a finished run, or words without any training, on anybody's video."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from avcore.cli.options import refuse_without, zero_shot_options

__all__ = ["predict"]


@click.command()
@click.argument("paths", metavar="[RUN] VIDEO", nargs=-1, required=True)
@click.option(
    "--zero-shot",
    "words",
    metavar="A,B,C",
    help="No RUN, no training: which of these classes is each second? A name with a comma stands in quotes, as in "
    "'dog, \"siren, far off\"'; @FILE takes one from each line.",
)
@zero_shot_options
@click.option(
    "--input",
    "inputs",
    metavar="NAME=VALUE",
    multiple=True,
    help='What the task asks for beside the video, such as question="How many ...?"; repeat it for several answers.',
)
@click.option("--out", metavar="DIR", help="Folder for the results.  [default: RUN/predictions, or ./predictions]")
@click.option(
    "--checkpoint", type=click.Choice(["best", "latest"]), default="best", show_default=True, help="Weights to use."
)
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: that of the run, or auto]")
@click.option("--overwrite", is_flag=True, help="Replace results that are there already.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print {"inputs", "video", "strip", "spans": [...], "summary", "events"}; a list of such for several inputs.',
)
def predict(
    paths: tuple[str, ...],
    words: str | None,
    inputs: tuple[str, ...],
    out: str | None,
    checkpoint: str,
    device: str | None,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Apply a run, or with --zero-shot words alone, to a video of any format (mp4, webm, mkv, ...), size and length.

    Writes VIDEO.overlay.mp4, the video with its sound and the predictions painted over it; VIDEO.strip.png, a column
    for each segment; and VIDEO.predictions.json and .csv, a line for each segment, or for each clip where the task
    answers for whole clips. Of tasks that predict events, VIDEO.events.json and VIDEO.events.csv too. Several inputs
    of one name are answered one after the other, each with an overlay of its own, VIDEO.2.overlay.mp4.

    \b
    Example:
      avcore predict runs/NAME cat.mp4
      avcore predict --zero-shot "dog, violin" cat.mp4 --visual NAME --text NAME
      avcore predict runs/NAME concert.mp4 --input question="How many instruments are sounding?"
    """  # noqa: D301 - click's mark for unwrapped lines
    import avcore
    from avcore.engine.files import json_text
    from avcore.report.tables import Cell, render_table
    from avcore.runs.zeroshot import read_words

    if len(paths) != (2 if words is None else 1):
        wanted = "a RUN and a VIDEO" if words is None else "one VIDEO and no RUN"
        raise click.UsageError(
            f"predict{'' if words is None else ' --zero-shot'} takes {wanted}, not {len(paths)} paths."
        )
    if words is None:
        refuse_without("--zero-shot", **chosen)
    given = _by_number(inputs)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        if words is None:
            run = avcore.load_run(paths[0], checkpoint=checkpoint, device=device)
        else:
            run = avcore.zero_shot(read_words(words), set=chosen.pop("sets"), device=device, **chosen)
            for notice in run.model.notices:
                click.echo(notice, err=True)
        done = run.predict(paths[-1], out, overwrite=overwrite, inputs=given)
    if as_json:
        each = [one.to_dict() for one in done]
        click.echo(json_text(each if len(each) > 1 else each[0]))
        return
    names = ["seconds", "sound (dB)", "prediction"]
    rows: list[list[Cell]] = [[one.span, one.level_db, one.text or None] for found in done for one in found.spans]
    if len(done) > 1:
        numbers = [str(number) for number, found in enumerate(done, start=1) for _ in found.spans]
        names, rows = ["input", *names], [[number, *row] for number, row in zip(numbers, rows, strict=True)]
    click.echo(render_table(names, rows))
    click.echo(f"\n{done[0].summary}")


def _by_number(texts: Sequence[str]) -> list[dict[str, str]]:
    """What belongs together of inputs that are given several times: the first of each name, the second, and so on.

    One that is given once belongs to all.
    """
    given: dict[str, list[str]] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--input {text}: write NAME=VALUE, such as --input question='How many ...?'.")
        given.setdefault(name, []).append(value)
    count = max(map(len, given.values()), default=1)
    for name, values in given.items():
        if len(values) not in (1, count):
            longest = next(other for other, found in given.items() if len(found) == count)
            raise click.UsageError(
                f"--input {name} is given {len(values)} times, and {longest} {count} times: give it as often, or once "
                "for all."
            )
    return [{name: values[number % len(values)] for name, values in given.items()} for number in range(count)]
