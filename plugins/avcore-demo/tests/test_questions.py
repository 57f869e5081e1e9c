"""What is asked of the demo's clips: all nine types, half of them for eye and ear, each answer as often as others."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from avcore_avqa.annotations import KINDS as TYPES
from avcore_demo import ANSWERS, WORDS
from avcore_demo.provide import COUNTS
from avcore_demo.questions import Question, choose
from avcore_demo.render import clips

Asked = list[tuple[str, Question]]


@pytest.fixture(scope="module")
def asked() -> dict[str, Asked]:
    """The questions of the demo, by split."""
    made = clips(seed=0, counts=COUNTS["avqa"], layout="avqa")
    return {split: choose([(name, clip) for name, of, clip in made if of == split]) for split in COUNTS["avqa"]}


@pytest.mark.parametrize("split", COUNTS["avqa"])
def test_all_types_are_asked_and_half_of_them_of_both_streams(asked: dict[str, Asked], split: str) -> None:
    types = Counter((question.about, question.what) for _, question in asked[split])
    assert set(types) == set(TYPES)
    assert max(types.values()) <= COUNTS["avqa"][split] / 5
    of_both = sum(count for (about, _), count in types.items() if about == "Audio-Visual")
    assert of_both >= sum(types.values()) / 2


@pytest.mark.parametrize("split", COUNTS["avqa"])
def test_each_answer_to_a_template_is_as_frequent_as_others(asked: dict[str, Asked], split: str) -> None:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    alike: defaultdict[tuple[str, object], Counter[str]] = defaultdict(Counter)
    for _, question in asked[split]:
        counts[question.template][question.answer] += 1
        alike[question.template, question.alike][question.answer] += 1
    for answers in (*counts.values(), *alike.values()):
        assert len(set(answers.values())) == 1
    assert all(len(answers) >= 2 for answers in counts.values())
    if split == "train":
        assert len(counts) == 13
        assert sum(max(answers.values()) for answers in counts.values()) / len(asked[split]) < 0.31


def test_the_demo_knows_the_words_and_answers(asked: dict[str, Asked]) -> None:
    words = {"<pad>"}
    for _, question in asked["train"]:
        left = list(question.values)
        words |= {left.pop(0) if "<" in word else word for word in question.template.rstrip("?").split()}
    assert (words, len(WORDS)) == (set(WORDS), len(words))
    assert {question.answer for _, question in asked["train"]} == set(ANSWERS)
    for split in ("val", "test"):
        assert {q.template for _, q in asked[split]} <= {q.template for _, q in asked["train"]}


def test_a_clip_is_asked_the_same_only_once(asked: dict[str, Asked]) -> None:
    for rows in asked.values():
        assert len({(name, question.template, question.values) for name, question in rows}) == len(rows)
        assert rows == sorted(rows, key=lambda row: [name for name, _ in rows].index(row[0]))


def test_a_set_of_one_clip_is_asked_something() -> None:
    for number in range(8):
        made = clips(seed=number, counts={"train": 1}, layout="avqa")
        assert choose([(name, clip) for name, _, clip in made])
