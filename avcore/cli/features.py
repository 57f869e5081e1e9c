"""``avcore features``: what a run's streams make of a split, as a file."""

import click

__all__ = ["features"]


@click.command()
@click.argument("directory", metavar="RUN")
@click.option("--split", default="test", show_default=True, help="Split; also one with other sound, test_swapped, ...")
@click.option("-o", "--out", metavar="FILE.safetensors", required=True, help="File to write; refused where it exists.")
@click.option(
    "--checkpoint", type=click.Choice(["best", "latest"]), default="best", show_default=True, help="Weights to use."
)
@click.option("--data", metavar="PATH", help="Folder of other data of the same task.")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: that of the run]")
def features(directory: str, split: str, out: str, checkpoint: str, data: str | None, device: str | None) -> None:
    """Write the pooled features of a split: frozen and adapted, pictures and sound apart, with labels and clips' names.

    Keys are frozen.visual, frozen.audio, adapted.visual, adapted.audio (clips, segments, width), labels (clips) and
    targets.NAME; the metadata hold the names of clips and classes as JSON.

    \b
    Example:
      avcore features runs/NAME --split test -o test.safetensors
    """  # noqa: D301 - click's mark for unwrapped lines
    from pathlib import Path

    import avcore
    from avcore.report.tables import render_table
    from avcore.runs.features import write_features

    run = avcore.load_run(directory, checkpoint=checkpoint, data=data, device=device)
    shapes = write_features(run, split, Path(out))
    click.echo(render_table(["key", "shape"], [[key, " × ".join(map(str, shape))] for key, shape in shapes.items()]))
