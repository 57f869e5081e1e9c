"""``avcore predict``: a finished run on anybody's video."""

import contextlib
import sys

import click

__all__ = ["predict"]


@click.command()
@click.argument("directory", metavar="RUN")
@click.argument("video", metavar="VIDEO")
@click.option(
    "--input",
    "inputs",
    metavar="NAME=VALUE",
    multiple=True,
    help='What the task asks for beside the video, such as question="How many ...?"; may be repeated.',
)
@click.option("--out", metavar="DIR", help="Folder for the results.  [default: RUN/predictions]")
@click.option(
    "--checkpoint", type=click.Choice(["best", "latest"]), default="best", show_default=True, help="Weights to use."
)
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: that of the run]")
@click.option("--overwrite", is_flag=True, help="Replace results that are there already.")
@click.option(
    "--json", "as_json", is_flag=True, help='Print {"video", "strip", "segments": [...], "summary", "events"}.'
)
def predict(
    directory: str,
    video: str,
    inputs: tuple[str, ...],
    out: str | None,
    checkpoint: str,
    device: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Apply a run to a video of any format (mp4, webm, mkv, ...), size and length.

    Writes VIDEO.overlay.mp4, the video with its sound and the predictions painted over it, and VIDEO.strip.png, a
    column for each segment. Of tasks that predict events, VIDEO.events.json and VIDEO.events.csv too.

    \b
    Example:
      avcore predict runs/NAME cat.mp4
      avcore predict runs/NAME concert.mp4 --input question="How many instruments are sounding?"
    """  # noqa: D301 - click's mark for unwrapped lines
    import avcore
    from avcore.engine.files import json_text
    from avcore.report.tables import Cell, render_table

    given: dict[str, str] = {}
    for text in inputs:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--input {text}: write NAME=VALUE, such as --input question='How many ...?'.")
        if name in given:
            raise click.UsageError(f"--input {name} is given twice: '{given[name]}' and '{value}'.")
        given[name] = value
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        run = avcore.load_run(directory, checkpoint=checkpoint, device=device)
        done = run.predict(video, out, overwrite=overwrite, inputs=given)
    if as_json:
        click.echo(json_text(done.to_dict()))
        return
    rows: list[list[Cell]] = [[one.span, one.level_db, one.text or None] for one in done.segments]
    click.echo(render_table(["seconds", "sound (dB)", "prediction"], rows))
    click.echo(f"\n{done.summary}")
