"""One static HTML page of a run or of several: no network, no script, every text escaped.

What runs wrote is shown as it is: names of clips and files come from anybody. The page's own policy
(``Content-Security-Policy``) forbids scripts, frames, forms and anything that is not a file beside it.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avcore.errors import AVCoreError, why
from avcore.report.charts import Mark, chart, escaped
from avcore.report.overlay import save_bytes
from avcore.report.tables import Cell, Spread, brought_by, format_cell

if TYPE_CHECKING:
    from avcore.engine.listing import ListedRun

__all__ = ["RunPage", "write_page"]

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere }
h2 { margin-top: 2.4rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .92em }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e4e4e4; text-align: left; overflow-wrap: anywhere }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th { border-bottom: 2px solid #bbb }
.caveat { background: #fff3cd; border-left: 4px solid #e0a800; padding: .5rem .8rem }
.charts { display: flex; flex-wrap: wrap; gap: 0 1rem }
.charts figure { width: 36rem; max-width: 100% }
figure { margin: 1rem 0 } figcaption { color: #555; font-size: .9em; overflow-wrap: anywhere }
img, video, svg { max-width: 100%; height: auto }
summary { cursor: pointer; font-size: 1.15em; font-weight: 600; margin: .8rem 0; overflow-wrap: anywhere }
"""
MOST = 200  # clips that could not be read, in the list of them
SHOWN = {"pictures": (".png",), "figures": (".svg",), "predictions": (".overlay.mp4", ".strip.png")}
"""Folders of a run, and the endings of what is shown of each."""


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """What the page says of one run.

    Attributes:
        name: its heading.
        run: what lies in its directory.
        demo: whether its data are made up, so that its scores mean nothing.
        published: see `avcore.report.published.published_scores`.
        differs: setting -> what the recipe says, and what the run used; None where there is no recipe to look at.
        curves: tag -> (step, value), as the run recorded them while it trained.
    """

    name: str
    run: ListedRun
    demo: bool = False
    published: Sequence[Mapping[str, Any]] = ()
    differs: Mapping[str, tuple[Any, Any]] | None = None
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


def write_page(pages: Sequence[RunPage], title: str, out: Path, *, charts: Sequence[str] = (), overwrite: bool) -> Path:
    """Write ``index.html`` and, beside it in ``files``, copies of the pictures and videos that it shows.

    Args:
        pages: at least one; of several a table compares them.
        title: of the page.
        out: its folder, made if need be.
        charts: of all runs together, from `avcore.report.charts`.
        overwrite: replace a page that is there.

    Returns:
        The page.

    Raises:
        AVCoreError: the folder holds something else, or nothing can be written there.
    """
    index, files = out / "index.html", out / "files"
    try:
        held = {path.name for path in out.iterdir()} if out.exists() else set()
        if held and not (overwrite and held <= {"index.html", "files"}):
            hint = "replace the page with --overwrite, or " if held <= {"index.html", "files"} else ""
            raise AVCoreError(f"{out} is not empty: {hint}name another folder.")
        index.unlink(missing_ok=True)
        if files.exists():
            shutil.rmtree(files)
        files.mkdir(parents=True)
    except OSError as error:
        raise AVCoreError(f"Cannot write {out}: {why(error)}.") from error
    copies = _Copies(files)
    body = [f"<h1>{escaped(title)}</h1>"]
    if len(pages) > 1:
        figures = "".join(f"<figure>{one}</figure>" for one in charts)
        body += [_overview(pages), f'<div class="charts">{figures}</div>']
    for page in pages:
        inner = "\n".join(_run(page, copies))
        if len(pages) == 1:
            body.append(inner)
        else:
            body.append(f"<details><summary>{escaped(page.name)}</summary>\n{inner}\n</details>")
    return save_bytes(_document(title, body).encode(), index)


def _document(title: str, body: Sequence[str]) -> str:
    allowed = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src 'self'; media-src 'self'; style-src 'sha256-{allowed}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="referrer" content="no-referrer">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title><style>{STYLE}</style></head>",
            "<body>",
            *body,
            "</body></html>",
            "",
        ]
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    head = "".join(f"<th>{escaped(one)}</th>" for one in columns)
    lines = []
    for row in rows:
        cells = (
            f'<td class="number">{escaped(format_cell(cell))}</td>'
            if isinstance(cell, int | float | Spread) and not isinstance(cell, bool)
            else f"<td>{escaped(format_cell(cell))}</td>"
            for cell in row
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _overview(pages: Sequence[RunPage]) -> str:
    rows: list[list[Cell]] = []
    for page in pages:
        results = page.run.results
        score = results.score if results else None
        sd = results.metrics_sd.get(score.split, {}).get(score.name) if results and score else None
        value: Cell = None if score is None else score.value
        if results and score and sd is not None:
            value = Spread(score.value, sd, len(results.seeds))
        rows.append(
            [
                page.name,
                page.run.problem or page.run.status,
                page.run.label or "head alone",
                f"{page.run.dataset} DEMO" if page.demo else page.run.dataset,
                f"{score.split} {score.name}" if score else None,
                value,
                results.params.get("trainable") if results else None,
                results.seconds if results else None,
            ]
        )
    columns = ["run", "status", "method", "data", "score", "value", "trained parameters", "seconds"]
    return f"<h2>Runs</h2>{_table(columns, rows)}"


# --------------------------------------------------------------------------------------------------------------------
# One run


def _run(page: RunPage, copies: _Copies) -> Iterator[str]:
    run, results = page.run, page.run.results
    if run.problem:
        yield f'<p class="caveat">{escaped(run.problem)}</p>'
    if page.demo:
        yield '<p class="caveat">DEMO DATA: scores on it mean nothing beside published ones.</p>'
    if results is not None:
        for line in results.caveats:
            yield f'<p class="caveat">{escaped(line)}</p>'
        if results.selected_on == "test":
            yield '<p class="caveat">The best checkpoint was selected on the test split (protocol=paper).</p>'
        facts: dict[str, Cell] = {
            "status": run.status,
            "task": results.task,
            "method": results.label or "head alone",
            "recipe": results.recipe,
            "data": results.dataset,
            "protocol": results.protocol,
            "selected on": results.selected_on,
            "streams": results.streams,
            "pictures": results.visual,
            "sound": results.audio,
            "seed": ", ".join(map(str, results.seeds or (results.seed,))),
            "seconds": results.seconds,
            "peak memory (MiB)": results.peak_bytes / 2**20,
            "commit": results.commit,
        }
        yield f"<h2>Run</h2>{_table(['', ''], [[key, value] for key, value in facts.items() if value is not None])}"
        yield from _scores(page)
    yield from _curves(page.curves)
    yield from _differences(page)
    if results is not None:
        yield from _parameters(results.params)
    yield from _media(run.directory, copies)
    if results is not None and results.broken:
        listed = [[split, clip, cause] for split, clips in results.broken.items() for clip, cause in clips.items()]
        rest = f"<p>and {len(listed) - MOST} more</p>" if len(listed) > MOST else ""
        yield f"<h2>Skipped clips</h2>{_table(['split', 'clip', 'why'], listed[:MOST])}{rest}"
    if results is not None and results.notes:
        yield f"<h2>Notes</h2><ul>{''.join(f'<li>{escaped(note)}</li>' for note in results.notes)}</ul>"


def _scores(page: RunPage) -> Iterator[str]:
    from avcore.data.changes import split_and_change

    results = page.run.results
    assert results is not None
    if not results.metrics:
        return
    names = list(dict.fromkeys(name for scores in results.metrics.values() for name in scores))
    rows: list[list[Cell]] = []
    for split, scores in results.metrics.items():
        base, change = split_and_change(split)
        sds = results.metrics_sd.get(split, {})
        cells: list[Cell] = [
            Spread(scores[name], sds[name], len(results.seeds)) if name in sds else scores.get(name) for name in names
        ]
        rows.append([split, f"{base}, {change.words}", *cells])
    rows += [[None, label, *map(scores.get, names)] for label, scores in brought_by(results.shapley).items()]
    others = {"head alone": results.baseline or {}, **results.trivial}
    rows += [
        [split, what.replace("_", " "), *map(scores.get, names)]
        for what, splits in others.items()
        for split, scores in splits.items()
    ]
    yield f"<h2>Scores</h2>{_table(['split', 'what clips are given', *names], rows)}"
    if page.published:
        beside: list[list[Cell]] = [
            [row["metric"], row["split"], row["value"], row["ours"], str(row["source"])] for row in page.published
        ]
        yield f"<h3>Beside what was published</h3>{_table(['score', 'split', 'published', 'ours', 'source'], beside)}"


def _curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Iterator[str]:
    """Losses in one chart, learning rates in another, everything else of training, and each score, in its own."""
    grouped: dict[str, dict[str, list[Mark]]] = {}
    for tag, points in sorted(curves.items()):
        group, _, name = tag.partition("/")
        kind = {"loss": "losses", "lr": "learning rates"}.get(name.partition("/")[0])
        what, series = (name, group) if group != "train" else (kind or name, name)
        if tag != "train/epoch":
            grouped.setdefault(what, {})[series] = [Mark(*point) for point in points]
    if grouped:
        figures = (
            f"<figure>{chart(series, what, 'step', what, lines=True)}</figure>" for what, series in grouped.items()
        )
        yield f'<h2>Curves</h2><div class="charts">{"".join(figures)}</div>'


def _differences(page: RunPage) -> Iterator[str]:
    if page.differs is None:
        return
    yield "<h2>What differs from the recipe</h2>"
    rows: list[list[Cell]] = [[key, str(recipe), str(run)] for key, (recipe, run) in page.differs.items()]
    yield _table(["setting", "recipe", "this run"], rows) if rows else "<p>Nothing.</p>"


def _parameters(params: Mapping[str, Any]) -> Iterator[str]:
    rows: list[list[Cell]] = [
        [name, part.get("tensors"), part.get("parameters"), part.get("trainable")]
        for name, part in params.get("parts", {}).items()
    ]
    rows.append(["all", None, params.get("total"), params.get("trainable")])
    yield f"<h2>Parameters</h2>{_table(['part', 'tensors', 'parameters', 'trained'], rows)}"


def _media(directory: Path, copies: _Copies) -> Iterator[str]:
    for folder, endings in SHOWN.items():
        found = [
            path
            for path in sorted((directory / folder).glob("*"))
            if path.name.endswith(endings) and path.is_file() and not path.is_symlink()
        ]
        if found:
            yield f"<h2>{folder.capitalize()}</h2>"
        for path in found:
            place, caption = copies.add(path), escaped(path.name)
            shown = (
                f'<video controls preload="metadata" src="{place}"></video>'
                if path.suffix == ".mp4"
                else f'<img loading="lazy" src="{place}" alt="{caption}">'
            )
            yield f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


class _Copies:
    """Files beside the page, whose names are numbers: no name that somebody chose becomes a path or an address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def add(self, path: Path) -> str:
        """Copy a file; its address as the page names it."""
        self.count += 1
        name = f"{self.count:04d}{path.suffix}"
        try:
            shutil.copyfile(path, self.folder / name)
        except OSError as error:
            raise AVCoreError(f"Cannot copy {path} to {self.folder}: {why(error)}.") from error
        return f"{self.folder.name}/{name}"
