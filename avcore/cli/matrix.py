"""``avcore plugins matrix``: which parts run together on which backbones."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import click

from avcore.registry import Registry, load_registry

if TYPE_CHECKING:
    from avcore.matrix import Combination

__all__ = ["matrix"]

WIDTH = 100
"""Characters of a line: of tables, and of the words below them."""


@click.command()
@click.option("--visual", metavar="NAME", help="Backbone of the pictures; else the first of every family.")
@click.option(
    "--audio",
    metavar="NAME",
    help="Backbone of the sound, or 'shared'; else shared, and the first of every family that serves sound alone.",
)
@click.option(
    "--only", default="", metavar="NAME", help="What this set, part, method or distribution has a part in, and no more."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: prompts, fusions, visual, audio, ok, reason.")
def matrix(visual: str | None, audio: str | None, only: str, as_json: bool) -> None:
    """List which prompts run with which fusions on which backbones, and why the others do not.

    The rows are what --prompts, the columns what --fusion takes, each under the distribution that offers it. Parts have
    their default settings; each is tried in a forward without weights.

    \b
    Examples:
      avcore plugins matrix
      avcore plugins matrix --only copl
      avcore plugins matrix --visual vit_base_patch16_224 --audio htsat
      avcore plugins matrix --visual swinv2_tiny_window8_256 --audio shared --json
    """  # noqa: D301 - click's mark for unwrapped lines
    from avcore.matrix import backbone_pairs, combinations

    registry = load_registry()
    found = list(combinations(registry, backbone_pairs(registry, visual, audio), only))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    for number, (_, rows) in enumerate(groupby(found, key=lambda one: (one.visual, one.audio))):
        click.echo("\n" if number else "", nl=False)
        _print_pair(registry, list(rows))
    run = sum(one.ok for one in found)
    methods = registry.methods
    if heads := [name for name in methods.unique_names() if not (methods[name].prompts or methods[name].fusions)]:
        click.echo(f"\nMethods that are a head alone, and go with every row: {', '.join(heads)}.")
    click.echo(f"\n{run} of {len(found)} combinations run; 'avcore plugins matrix --json' has a row for each.")


def _print_pair(registry: Registry, rows: Sequence["Combination"]) -> None:
    """Tables as wide as a page, each refusal a number that stands for its reason below."""
    from avcore.matrix import origin_of

    click.echo(f"visual {rows[0].visual}, audio {rows[0].audio}")
    reasons = list(dict.fromkeys(one.reason for one in rows if one.reason))
    cells = {(one.prompts, one.fusions): "ok" if one.ok else f"[{reasons.index(one.reason) + 1}]" for one in rows}
    fusions = [(origin_of(registry, name, "fusions"), name) for name in dict.fromkeys(one.fusions for one in rows)]
    prompts = [(origin_of(registry, name, "prompts"), name) for name in dict.fromkeys(one.prompts for one in rows)]
    for number, columns in enumerate(_pages(sorted(fusions, key=lambda one: one[0]), WIDTH - _label_width(prompts))):
        click.echo("" if number == 0 else "\n", nl=False)
        _print_table(prompts, columns, cells)
    for number, reason in enumerate(reasons, start=1):
        indent = " " * (len(str(number)) + 5)
        click.echo(textwrap.fill(f"  [{number}] {reason}", WIDTH, subsequent_indent=indent, break_on_hyphens=False))


def _label_width(prompts: Sequence[tuple[str, str]]) -> int:
    return 6 + sum(max(len(one[place]) for one in [*prompts, ("", "PROMPTS")]) for place in (0, 1))


def _print_table(
    prompts: Sequence[tuple[str, str]], columns: Sequence[tuple[str, str]], cells: Mapping[tuple[str, str], str]
) -> None:
    first = max(len(origin) for origin, _ in prompts)
    second = max(len(name) for _, name in [*prompts, ("", "PROMPTS")])
    groups = {origin: [name for _, name in ones] for origin, ones in groupby(columns, key=lambda one: one[0])}
    widths = {origin: _widths(origin, names) for origin, names in groups.items()}

    def line(origin: str, name: str, texts: Sequence[str]) -> None:
        every = [width for ones in widths.values() for width in ones]
        made = "  ".join(text.ljust(width) for text, width in zip(texts, every, strict=True))
        click.echo(f"  {origin:{first}}  {name:{second}}  {made}".rstrip())

    above = "  ".join(origin.ljust(_wide(widths[origin])) for origin in groups)
    click.echo(f"  {'':{first}}  {'':{second}}  {above}".rstrip())
    line("", "PROMPTS", [name for _, name in columns])
    told = ""
    for origin, name in sorted(prompts, key=lambda one: one[0]):
        found = [cells.get((name, fusion), "") for _, fusion in columns]
        if any(found):
            line("" if origin == told else origin, name, found)
            told = origin


def _pages(columns: Sequence[tuple[str, str]], width: int) -> Iterator[list[tuple[str, str]]]:
    """Columns, distribution and name, in as many tables as it takes for none to be wider."""
    page: list[tuple[str, str]] = []
    for column in columns:
        if page and _page_width([*page, column]) > width:
            yield page
            page = []
        page.append(column)
    yield page


def _page_width(columns: Sequence[tuple[str, str]]) -> int:
    groups = [(origin, [name for _, name in ones]) for origin, ones in groupby(columns, key=lambda one: one[0])]
    return _wide([_wide(_widths(origin, names)) for origin, names in groups])


def _widths(origin: str, names: Sequence[str]) -> list[int]:
    """Of the columns of a distribution, whose name stands over them."""
    widths = [max(len(name), 4) for name in names]
    widths[-1] += max(0, len(origin) - _wide(widths))
    return widths


def _wide(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)
