"""The page of a run, with names that want to be more than names, also in a real browser."""

import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from toy_results import result

from avcore.cli import main
from avcore.registry import Registry
from avcore.report.charts import Mark, chart, panels

HOSTILE = (
    "<script>document.title='hit'</script>",
    '"><img src=x onerror="document.title=\'hit\'">',
    "'; --><svg onload=document.title='hit'>",
    "../../../etc/passwd",
    "line\nbreak\x00\x1b[31m",
    "snow ☃ \udcff half",
    "</title></style></td><h1>",
    "&lt;b&gt;",
)
LOUD = (255, 0, 254)
"""The colour of a picture, which nothing else on the page has."""
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1200,5000"
)


@pytest.fixture(autouse=True)
def fake(fake_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.registry.load_registry", lambda: fake_registry)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def write_run(folder: Path, trained: int = 10, score: float = 61.25, depth: int = 2) -> Path:
    """A run whose clips, notes, method and pictures have hostile names."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "predictions").mkdir()
    broken = {"test": {name: f"cause {name}" for name in HOSTILE}}
    made = result(
        metrics={
            "test": {"score": score, HOSTILE[0]: 1.0},
            "test_swapped": {"score": 3.5},
            "test_mute_audio": {"score": 2.5},
        },
        broken=broken,
        notes=HOSTILE,
        params={
            "parts": {HOSTILE[1]: {"tensors": 1, "parameters": trained, "trainable": trained}},
            "trainable": trained,
        },
    )
    made.write(folder / "results.json")
    (folder / "config.yaml").write_text(
        f"task: seg\nmethod: m\ndata: {{dataset: seg-files}}\nparts: {{m.rows: {{depth: {depth}}}}}\n"
    )
    for name in HOSTILE:
        if "/" not in name and "\x00" not in name:
            Image.fromarray(np.full((40, 60, 3), LOUD, np.uint8)).save(folder / "pictures" / f"{name}.png")
    (folder / "predictions" / f"{HOSTILE[2][:8]}.overlay.mp4").write_bytes(b"no video")
    return folder


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def refuse_foreign(page: str) -> None:
    """Nothing on a page runs, and nothing comes from elsewhere."""
    for tag, attributes in Elements(page).found:
        assert tag not in ("script", "iframe", "object", "embed", "base", "link", "form", "h4")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href", "poster"):
            assert attributes.get(name, "files/").startswith("files/")  # type: ignore[union-attr]
            assert ".." not in (attributes.get(name) or "")


def test_hostile_names_are_text(tmp_path: Path) -> None:
    done = invoke(write_run(tmp_path / "run"), "-o", tmp_path / "page")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    refuse_foreign(page)
    elements = Elements(page)
    for name in (*HOSTILE[:4], *HOSTILE[6:]):
        assert f"cause {name}" in elements.text
    assert [tag for tag, _ in elements.found].count("h1") == 1
    policy = next(
        attributes["content"] for tag, attributes in elements.found if tag == "meta" and "http-equiv" in attributes
    )
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for told in ("test_swapped", "another clip's sound", "test_mute_audio", "61.25", "overlay.mp4"):
        assert told in elements.text
    files = sorted(path.name for path in (tmp_path / "page" / "files").iterdir())
    assert files == ["0001.png", "0002.png", "0003.png", "0004.png", "0005.mp4"]


def test_a_folder_of_runs(tmp_path: Path) -> None:
    """A table, the charts of what varies, and runs that failed with their reason."""
    for depth in (2, 4):
        write_run(tmp_path / "runs" / f"depth-{depth}", trained=depth * 1000, score=50.0 + depth, depth=depth)
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "log.txt").write_text("")
    assert invoke(tmp_path / "runs", "-o", tmp_path / "page").exit_code == 0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    refuse_foreign(page)
    text = Elements(page).text
    assert "no results.json" in text
    assert "trained parameters" in text
    assert "parts.m.rows.depth" in text
    assert "depth-4: 54.00" in text


def test_what_stands_in_the_way_is_kept(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "page"
    assert invoke(run, "-o", out).exit_code == 0
    again = invoke(run, "-o", out)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    assert invoke(run, "-o", out, "--overwrite").exit_code == 0
    (out / "mine.txt").write_text("keep")
    refused = invoke(run, "-o", out, "--overwrite")
    assert refused.exit_code == 2
    assert "name another folder" in refused.output
    assert (out / "index.html").exists()
    assert invoke(tmp_path / "gone", "-o", tmp_path / "other").exit_code == 2


def test_charts_escape_and_leave_out_what_is_no_number() -> None:
    drawn = chart({HOSTILE[0]: [Mark(1, 2, HOSTILE[1]), Mark(2, float("nan"))]}, HOSTILE[4], "x", "y")
    assert "<script" not in drawn
    assert "<img" not in drawn
    assert "\x00" not in drawn
    assert drawn.count("<circle") == 1
    assert "nothing to draw" in chart({"none": []}, "t", "x", "y")
    assert chart({"a": [Mark(0, 1), Mark(10, 1), Mark(1000, 3)]}, "t", "x", "y", log_x=True).count("<circle") == 2
    assert panels([drawn] * 3).count("<svg") == 4


def chromium(*arguments: str | Path) -> str:
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("AVCORE_REQUIRE_CHROMIUM") == "1":
            pytest.fail("There is no chromium, and AVCORE_REQUIRE_CHROMIUM=1: apt-get install chromium.")
        pytest.skip("there is no chromium")
    done = subprocess.run(
        [found, *FLAGS.split(), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_in_a_real_browser(tmp_path: Path) -> None:
    """Nothing of a hostile name runs, without the page's policy too, and pictures are shown with it."""
    invoke(write_run(tmp_path / "run"), "-o", tmp_path / "page")
    page = tmp_path / "page" / "index.html"
    picture = tmp_path / "seen.png"
    chromium(f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", page.as_uri())
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert int((pixels == LOUD).all(-1).sum()) >= 40 * 60 * 4
    text = page.read_text(encoding="utf-8")
    bare = page.with_name("bare.html")
    bare.write_text(text.replace("Content-Security-Policy", "X-Nothing"), encoding="utf-8")
    shown = chromium(f"--user-data-dir={tmp_path / 'other'}", "--dump-dom", bare.as_uri())
    assert "<title>avcore: run</title>" in shown
    refuse_foreign(shown)
