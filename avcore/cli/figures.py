"""``avcore figures``: pictures of how the features of a split lie."""

import click

__all__ = ["figures"]


@click.command()
@click.argument("file", metavar="FILE.safetensors")
@click.option("-o", "--out", metavar="DIR", required=True, help="Folder; a page shows what lies in RUN/figures.")
@click.option("--seed", default=0, show_default=True, help="Of t-SNE.")
def figures(file: str, out: str, seed: int) -> None:
    """Draw a t-SNE of a file of 'avcore features': frozen beside adapted, pictures and sound apart, coloured by class.

    Writes tsne.svg, and tsne.json with the silhouette and the purity of nearest neighbours of the features themselves.
    Needs scikit-learn: pip install 'avcore[figures]'.

    \b
    Example:
      avcore figures test.safetensors -o runs/NAME/figures
    """  # noqa: D301 - click's mark for unwrapped lines
    from pathlib import Path

    from avcore.report.tables import Cell, render_table
    from avcore.runs.figures import draw_features

    numbers = draw_features(Path(file), Path(out), seed=seed)
    rows: list[list[Cell]] = [[key, one["silhouette"], one["purity"]] for key, one in numbers.items()]
    click.echo(render_table(["features", "silhouette", "purity"], rows))
