"""``avcore convert``: a checkpoint of a reference implementation becomes an adapter."""

import json
from typing import Any

import click

from avcore.errors import AVCoreError

__all__ = ["convert"]


@click.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--from", "source", metavar="NAME", required=True, help="Method or backbone whose reference code wrote the file."
)
@click.option("--task", metavar="NAME", help="Task that a method's checkpoint was trained for.")
@click.option("-o", "--out", metavar="DIR", required=True, help="Directory of the adapter, new or holding an adapter.")
@click.option("--recipe", metavar="VARIANT", help="Variant of the method's published settings for the task.")
@click.option("--visual", metavar="NAME", help="Backbone for pictures, if not the recipe's.")
@click.option(
    "--set", "set", multiple=True, metavar="KEY=VALUE", help="Any setting, such as visual.weights=PATH (repeatable)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def convert(as_json: bool, **given: Any) -> None:
    """Make an adapter of FILE: a .pt, .pth, .ckpt or .safetensors that a method's reference code wrote.

    With the name of a backbone, make a file of its weights. A converter renames the tensors. Keys that are unknown,
    missing or misshapen are listed and refused. Nothing in the file is executed: one that holds more than tensors is
    refused.

    Of a method, frozen weights are those of --set visual.weights=PATH (or hub), and what the file holds of them must
    be equal. Without it the file must hold them all; they are written to DIR/backbone.safetensors.

    \b
    Examples:
      avcore convert --from lavish best.pth --task ave -o adapters/lavish
      avcore convert --from lavish best.pth --task ave -o adapters/lavish --set visual.weights=vit.safetensors
      avcore convert --from htsat HTSAT_AudioSet_Saved_1.ckpt -o weights/htsat
    """  # noqa: D301 - click's mark for unwrapped lines
    from avcore.runs.convert import ConversionError, convert_checkpoint

    try:
        made = convert_checkpoint(**given)
    except ConversionError as error:
        for fault in error.faults:
            click.echo(fault, err=True)
        raise AVCoreError(error.summary) from error
    weights = {stream: str(path) for stream, path in made.weights.items()}
    if as_json:
        plain = {**vars(made), "directory": str(made.directory), "frozen": dict(made.frozen), "weights": weights}
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    owner = made.source if made.task is None else f"{made.source} on {made.task}"
    click.echo(f"{made.directory}: {made.tensors} tensors, {made.parameters:,} numbers of {owner}")
    for stream, origin in made.frozen.items():
        click.echo(f"frozen weights of the {stream} backbone: from {origin}")
    for stream, written in weights.items():
        click.echo(f"frozen weights are in {written}; use them with --set {stream}.weights={written}")
