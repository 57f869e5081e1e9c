"""Files of questions: what is read, what is refused, and what stands in the official ones."""

import json
from collections import Counter
from pathlib import Path

import pytest
from avqa_files import ROWS, make_files, make_questions

from avcore.errors import DataError
from avcore.testing.golden import real_data
from avcore_avqa.annotations import KINDS, find_root, priors, read_questions, settings_in, vocabularies
from avcore_avqa.words import ANSWERS, LENGTH, PAD, WORDS, ids_of, words_of


def test_words_and_answers_come_in_the_order_of_train(tmp_path: Path) -> None:
    make_questions(tmp_path / "data")
    rows = read_questions(tmp_path / "data/json/avqa-train.json")
    assert rows[0].words == ("How", "many", "sounding", "piano", "in", "the", "video")
    assert rows[1].words == ("Is", "the", "piano", "louder", "than", "the", "flute")
    settings = settings_in(tmp_path)
    assert settings["task_options.words"][:5] == [PAD, "How", "many", "sounding", "piano"]
    assert settings["task_options.answers"] == ["two", "no", "one"]
    assert "task_options.length" not in settings
    assert find_root(tmp_path) == tmp_path / "data"
    assert priors(rows) == {"How many sounding <Object> in the video\uff1f": "one", rows[1].template: "no"}


def test_a_question_longer_than_the_official_ones_makes_all_as_long(tmp_path: Path) -> None:
    path = make_questions(tmp_path) / "json/avqa-train.json"
    row = {**ROWS["train"][0], "question_content": "very " * 17 + "long?", "templ_values": "[]"}
    path.write_text(json.dumps([row]))
    assert settings_in(tmp_path)["task_options.length"] == 18


def test_clips_are_as_long_as_the_videos_where_these_are_shorter(tmp_path: Path) -> None:
    assert settings_in(make_files(tmp_path / "short", seconds=3))["data.clip_seconds"] == 3
    for name, seconds in (("minute", 58), ("empty", 0)):
        assert "data.clip_seconds" not in settings_in(make_files(tmp_path / name, seconds=seconds))


def test_the_longest_video_that_can_be_read_says_how_long_clips_are(tmp_path: Path) -> None:
    root, long = make_files(tmp_path / "short", seconds=3), make_files(tmp_path / "long", seconds=5)
    (root / "audio/00000001.wav").write_bytes(b"")
    (root / "audio/00000003.wav").write_bytes((long / "audio/00000003.wav").read_bytes())
    assert settings_in(root)["data.clip_seconds"] == 5


def test_a_value_of_several_words_fills_in_each_so_that_all_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "avqa-train.json"
    path.write_text(json.dumps([{**ROWS["train"][1], "templ_values": '["grand piano", " flute "]'}]))
    rows = read_questions(path)
    assert rows[0].words == ("Is", "the", "grand", "piano", "louder", "than", "the", "flute")
    words, _ = vocabularies(rows)
    asked = ids_of(words_of("Is the grand piano louder than the flute?"), words, LENGTH)
    assert asked == ids_of(rows[0].words, words, LENGTH)


def test_the_answer_may_be_spelt_rightly(tmp_path: Path) -> None:
    path = tmp_path / "avqa-train.json"
    row = dict(ROWS["train"][0])
    path.write_text(json.dumps([{**row, "answer": row.pop("anser")}]))
    assert read_questions(path)[0].answer == "two"


def test_without_train_the_lists_beside_the_questions_are_taken(tmp_path: Path) -> None:
    make_questions(tmp_path, "json_update")
    (tmp_path / "json_update/avqa-train.json").unlink()
    assert settings_in(tmp_path) == {}
    (tmp_path / "ques_vocab.txt").write_text("<pad>\nHow\nmany\n" * 2)
    (tmp_path / "ans_vocab.txt").write_text("more than ten\nno\n")
    settings = settings_in(tmp_path)
    assert settings["task_options.words"] == [PAD, "How", "many"]
    assert settings["task_options.answers"] == ["more than ten", "no"]


def test_a_question_that_comes_again_has_another_name(tmp_path: Path) -> None:
    rows = read_questions(make_questions(tmp_path) / "json/avqa-test.json")
    assert [row.name for row in rows] == ["00000004_7", "00000004_7-2", "00000005_8"]
    assert [row.repeats for row in rows] == [False, True, False]


def test_a_number_that_names_another_again_has_a_further_one(tmp_path: Path) -> None:
    path = make_questions(tmp_path) / "json/avqa-test.json"
    row = json.loads(path.read_text())[0]
    path.write_text(json.dumps([row | {"question_id": number} for number in (7, 7, "7-2", 7)]))
    names = [row.name for row in read_questions(path)]
    assert names == ["00000004_7", "00000004_7-2", "00000004_7-2-2", "00000004_7-3"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"anser": None}, "question 2: anser is None, no text"),
        ({"type": '["Smell", "Counting"]'}, "none of Audio Counting, "),
        ({"type": "Audio"}, "type is 'Audio', no list in JSON"),
        ({"type": "[" * 100_000}, "type is .*, no list in JSON"),
        ({"templ_values": '["piano"]'}, "2 placeholders, and templ_values has 1"),
        ({"templ_values": "[3]"}, "no list of texts"),
        ({"templ_values": '["piano", " "]'}, "value in templ_values, .*, has no word"),
    ],
)
def test_a_malformed_row_is_named(change: dict[str, object], match: str, tmp_path: Path) -> None:
    path = tmp_path / "avqa-train.json"
    rows = [ROWS["train"][0], {**ROWS["train"][1], **change}]
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=match):
        read_questions(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{}", "must be a list"),
        ("[", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('["x"]', "question 1: it is a str"),
        ('[{"video_id": "1"}]', "missing"),
    ],
)
def test_a_malformed_file_is_named(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "avqa-train.json"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        read_questions(path)
    with pytest.raises(DataError, match="Cannot read"):
        read_questions(tmp_path / "none.json")


# --------------------------------------------------------------------------------------------------------------------
# The official files

TYPES = {
    "json": (1022, 601, 1199, 1228, 995, 1274, 927, 1115, 824),
    "json_update": (1017, 594, 1197, 1225, 988, 1265, 920, 1101, 822),
}


@pytest.mark.parametrize(("version", "questions"), [("json", (4595, 9185)), ("json_update", (4568, 9129))])
def test_the_official_questions(version: str, questions: tuple[int, int]) -> None:
    root = real_data("annotations", "MUSIC-AVQA")
    val, test = (read_questions(root / version / f"avqa-{split}.json") for split in ("val", "test"))
    assert (len(val), len(test)) == questions
    assert sorted(Counter(row.kind for row in test).items()) == list(enumerate(TYPES[version]))
    assert len(KINDS) == 9
    videos = [{row.video for row in rows} for rows in (val, test)]
    assert [len(one) for one in videos] == [3815, 6399]
    assert len(videos[0] & videos[1]) == 2296
    # Nothing in them is outside the lists of train, and none is longer.
    assert {row.answer for row in [*val, *test]} <= set(ANSWERS)
    for row in [*val, *test]:
        ids = ids_of(row.words, WORDS, LENGTH)
        assert [WORDS[place] for place in ids[: len(row.words)]] == list(row.words)
    assert len({row.template for row in test}) == 33


def test_the_official_lists() -> None:
    settings = settings_in(real_data("annotations", "MUSIC-AVQA"))
    assert tuple(settings["task_options.words"]) == WORDS
    assert tuple(settings["task_options.answers"]) == ANSWERS
    assert (len(WORDS), len(ANSWERS)) == (93, 42)


def test_the_small_set_has_its_answers_in_the_order_of_train() -> None:
    root = real_data("mini", "AVQA")
    train, val, test = (read_questions(root / f"json/avqa-{split}.json") for split in ("train", "val", "test"))
    _, answers = vocabularies(train)
    assert list(answers) == (root / "ans_vocab.txt").read_text().split("\n")[:18]
    best = priors(train)
    shares = [100 * sum(best[row.template] == row.answer for row in rows) / len(rows) for rows in (val, test)]
    assert [round(share, 1) for share in shares] == [37.5, 36.5]
