"""``avcore plugins matrix``: which parts run together on which backbones."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import click

from avcore.registry import load_registry

if TYPE_CHECKING:
    from avcore.matrix import Combination

__all__ = ["matrix"]


@click.command()
@click.option("--visual", metavar="NAME", help="Backbone of the pictures; else the first of every family.")
@click.option(
    "--audio",
    metavar="NAME",
    help="Backbone of the sound, or 'shared'; else shared, and the first of every family that serves sound alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: prompts, fusions, visual, audio, ok, reason.")
def matrix(visual: str | None, audio: str | None, as_json: bool) -> None:
    """List which prompts run with which fusions on which backbones, and why the others do not.

    The rows are what --prompts, the columns what --fusion takes. Parts have their default settings; no weights are
    read.

    \b
    Examples:
      avcore plugins matrix
      avcore plugins matrix --visual vit_base_patch16_224 --audio htsat
      avcore plugins matrix --visual swinv2_tiny_window8_256 --audio shared --json
    """  # noqa: D301 - click's mark for unwrapped lines
    from avcore.matrix import backbone_pairs, combinations

    registry = load_registry()
    found = list(combinations(registry, backbone_pairs(registry, visual, audio)))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    for number, (_, rows) in enumerate(groupby(found, key=lambda one: (one.visual, one.audio))):
        click.echo("\n" if number else "", nl=False)
        _print_pair(list(rows))
    run = sum(one.ok for one in found)
    click.echo(f"\n{run} of {len(found)} combinations run; 'avcore plugins matrix --json' has a row for each.")


def _print_pair(rows: Sequence["Combination"]) -> None:
    """One table, each refusal a number that stands for its reason below."""
    click.echo(f"visual {rows[0].visual}, audio {rows[0].audio}")
    fusions = list(dict.fromkeys(one.fusions for one in rows))
    reasons = list(dict.fromkeys(one.reason for one in rows if one.reason))
    table = [["PROMPTS", *fusions]]
    for prompts, ones in groupby(rows, key=lambda one: one.prompts):
        table.append([prompts, *("ok" if one.ok else f"[{reasons.index(one.reason) + 1}]" for one in ones)])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for number, reason in enumerate(reasons, start=1):
        click.echo(f"  [{number}] {reason}")
