"""The demo in MUSIC-AVQA's layout, through its reader; each answer again from objects.json, the slow way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from avcore.cli import main
from avcore_avqa.annotations import KINDS as TYPES
from avcore_avqa.annotations import read_questions
from avcore_avqa.config import AVQATaskConfig, MusicAVQADataConfig
from avcore_avqa.datasets import MusicAVQA
from avcore_avqa.task import AVQATask
from avcore_demo import ANSWERS, WORDS
from avcore_demo.questions import APART, LOUDER, choose
from avcore_demo.render import clips, render
from avcore_demo.truth import describe

COUNTS = {"train": 12, "val": 1, "test": 2}
# Such that val and test take no word that the few training questions lack (seed 13).
SECONDS = range(10)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("avqa") / "demo"
    render(folder, seed=13, counts=COUNTS, layout="avqa", size=16)
    return folder


def rows_of(root: Path, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((root / "json" / f"avqa-{split}.json").read_text())
    return rows


def test_each_answer_is_what_is_seen_and_heard(root: Path) -> None:
    described = json.loads((root / "objects.json").read_text())["clips"]
    for split in COUNTS:
        for row in rows_of(root, split):
            entry = described[row["video_id"]]
            assert entry["split"] == split
            assert row["anser"] == answer(row["question_content"], json.loads(row["templ_values"]), entry["things"])


def test_each_answer_of_a_larger_set_is_too() -> None:
    made = {name: clip for name, _, clip in clips(seed=2, counts={"train": 100}, layout="avqa")}
    described: dict[str, Any] = {}
    asked = choose(list(made.items()))
    for name, question in asked:
        # As objects.json has it.
        described.setdefault(name, json.loads(json.dumps(describe(made[name], 16))))
        assert question.answer == answer(question.template, list(question.values), described[name]["things"])
    assert {(question.about, question.what) for _, question in asked} == set(TYPES)
    assert {question.values for _, question in asked} > {("first",), ("last",), ("leftest",), ("rightest",)}


def answer(template: str, values: list[str], things: list[Mapping[str, Any]]) -> str:
    """The answer to a question, from what `objects.json` says of each thing and second."""
    seen = [thing for thing in things if any(thing["seen"])]
    heard = [thing for thing in things if any(thing["heard"])]
    both = [thing for thing in seen if any(thing["heard"])]
    numbers = ("zero", "one", "two", "three")
    match template:
        case "How many things were heard in the entire video?":
            return numbers[len({thing["kind"] for thing in heard})]
        case "How many types of things appeared in the entire video?":
            return numbers[len({thing["kind"] for thing in seen})]
        case "How many things are sounding in the video?":
            return numbers[len(both)]
        case "What kind of thing is it?":
            (only,) = seen
            return str(only["kind"])
        case "Which thing in the video is the sound coming from?":
            (only,) = both
            assert len(seen) > 1
            assert len(heard) > 1
            return str(only["kind"])
        case "Is the thing in the video sounding?":
            (only,) = seen
            return "yes" if any(only["heard"]) else "no"
        case "Is there a voiceover?":
            return "yes" if {thing["kind"] for thing in heard} - {thing["kind"] for thing in seen} else "no"
        case "Which thing sounds the longest?" | "Which thing in the video sounds the longest?":
            rivals = both if "video" in template else heard
            return only_one(rivals, [sum(thing["heard"]) for thing in rivals], 1)
        case "Which thing is the loudest?" | "Which thing in the video is the loudest?":
            rivals = both if "video" in template else heard
            return only_one(rivals, [max(level or -99 for level in thing["loudness"]) for thing in rivals], LOUDER)
        case "What is the <TH> thing in the video that comes in?":
            sign = {"first": -1, "last": 1}[values[0]]
            return only_one(both, [sign * min(s for s in SECONDS if thing["heard"][s]) for thing in both], 1)
        case "What kind of thing is the <LRer> thing?":
            sign = {"leftest": -1, "rightest": 1}[values[0]]
            said = {only_one(seen, [sign * thing["centre"][second][0] for thing in seen], APART) for second in SECONDS}
            (kind,) = said
            return kind
    raise AssertionError(template)


def only_one(things: list[Mapping[str, Any]], values: list[float], by: float) -> str:
    """The kind whose value is the largest, and clearly so."""
    assert len(things) > 1
    best, second = sorted(values)[-1:-3:-1]
    assert best - second >= by - 1e-6
    return str(things[values.index(best)]["kind"])


def test_the_official_reader_reads_it(root: Path) -> None:
    task = AVQATask(AVQATaskConfig(words=WORDS, answers=ANSWERS))
    reader = MusicAVQA(MusicAVQADataConfig(segments=2, clip_seconds=10.0), root, task)
    for split in COUNTS:
        rows, read = rows_of(root, split), reader.clips(split)
        assert len(read) == len(rows)
        assert reader.counts(split) == {"videos": len({row["video_id"] for row in rows})}
        for clip, row in zip(read, rows, strict=True):
            assert clip.group == row["video_id"]
            assert [path.name for path in clip.frames] == ["000003.jpg", "000008.jpg"]  # type: ignore[union-attr]
            assert all(path.is_file() for path in clip.frames)  # type: ignore[union-attr]
            assert clip.audio is not None
            assert clip.audio.is_file()
            assert ANSWERS[int(reader.target(clip)["answer"])] == row["anser"]
            assert reader.inputs(clip, 0)["question"].any()
    assert reader.notes() == ["Questions are those of json/ (data.questions)."]


def test_rows_have_the_keys_of_the_official_files(root: Path) -> None:
    for split in COUNTS:
        rows = rows_of(root, split)
        assert {tuple(row) for row in rows} == {
            ("video_id", "question_id", "type", "question_content", "templ_values", "question_deleted", "anser")
        }
        assert [row["question_id"] for row in rows] == list(range(len(rows)))
        assert all(isinstance(row["type"], str) and isinstance(row["templ_values"], str) for row in rows)
        assert not any(question.repeats for question in read_questions(root / "json" / f"avqa-{split}.json"))


@pytest.mark.parametrize("command", ["info", "verify"])
def test_nothing_is_wrong_with_it(root: Path, command: str) -> None:
    sets = ("data.segments=2", "data.clip_seconds=10", "data.window_seconds=0.97", "data.window_margin=1")
    options = [part for one in sets for part in ("--set", one)]
    found = CliRunner().invoke(main, ["data", command, "avqa", "--data", str(root), *options])
    assert found.exit_code == 0, found.output
