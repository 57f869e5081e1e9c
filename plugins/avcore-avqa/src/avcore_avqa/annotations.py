"""MUSIC-AVQA's files of questions. Imports no torch."""

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from avcore.data.lines import read_lines
from avcore.errors import AVCoreError, DataError, why
from avcore_avqa.config import MusicAVQADataConfig
from avcore_avqa.words import LENGTH, PAD, words_of

__all__ = [
    "FOLDERS",
    "FRAMES",
    "KINDS",
    "SOUNDS",
    "VERSIONS",
    "VIDEOS",
    "Question",
    "find_root",
    "list_of",
    "priors",
    "read_questions",
    "settings_in",
    "vocabularies",
]

FOLDERS = ("", "data", "MUSIC-AVQA", "MUSIC-AVQA/data")
"""Where the folders of questions lie below the one that a person names."""
VERSIONS = ("json", "json_update")
"""Folders of questions: as published, and as the authors corrected them later."""
SPLITS = ("train", "val", "test")
VIDEOS = ("videos", "video", "MUSIC-AVQA-videos-Real", "MUSIC-AVQA-videos-Synthetic")
"""Folders of video files; the first goes before the others."""
FRAMES, SOUNDS = "frames", "audio"
"""Folders of extracted pictures and sound."""
MINUTE = MusicAVQADataConfig.clip_seconds
LOOKED_FOR, PROBED = 64, 8
"""So many videos are looked for, and so many of those that are there tell how long clips are."""
KINDS = (
    *(("Audio", "Counting"), ("Audio", "Comparative"), ("Visual", "Counting"), ("Visual", "Location")),
    *(("Audio-Visual", "Existential"), ("Audio-Visual", "Counting"), ("Audio-Visual", "Location")),
    *(("Audio-Visual", "Comparative"), ("Audio-Visual", "Temporal")),
)
"""The nine types of questions in the order of their indices: what must be looked at or listened to, and for what."""


@dataclass(frozen=True)
class Question:
    """A row of a file of questions.

    Attributes:
        video: the id of its video.
        name: unique in its split: the id of the video, that of the question, and a number where both come again.
        kind: its place in `KINDS`.
        template: the question with placeholders such as ``<Object>``.
        words: those of the question, placeholders filled.
        answer: what is right.
        repeats: whether the same video is asked the same by an earlier row.
    """

    video: str
    name: str
    kind: int
    template: str
    words: tuple[str, ...]
    answer: str
    repeats: bool = False


def find_root(root: Path) -> Path:
    """The folder that holds ``json`` or ``json_update``: ``root``, or one of `FOLDERS` in it.

    Raises:
        DataError: none does.
    """
    for folder in FOLDERS:
        if any(list_of(root / folder, version, split).is_file() for version in VERSIONS for split in SPLITS):
            return root / folder
    raise DataError(
        f"'{root}' holds no json/avqa-train.json, nor do {', '.join(folder for folder in FOLDERS if folder)} in it; "
        "give --data the folder of MUSIC-AVQA with its questions (json or json_update) and videos."
    )


def list_of(root: Path, version: str, split: str) -> Path:
    """The file of a split's questions."""
    return root / version / f"avqa-{split}.json"


def read_questions(path: Path) -> list[Question]:
    """The questions of a file in the order of its rows; one that stands there twice counts twice.

    Raises:
        DataError: the file cannot be read, or a row is malformed; names it.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {why(error)}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{path}' is no JSON: {error}. Fetch it again.") from None
    if not isinstance(rows, list):
        raise DataError(f"'{path}' must be a list of questions, and it is a {type(rows).__name__}.")
    names: set[str] = set()
    asked: set[tuple[str, tuple[str, ...]]] = set()
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            video, template, answer = (_text(row, key) for key in ("video_id", "question_content", "anser"))
            kind = KINDS.index(tuple(_listed(row, "type")))
            words = _filled(words_of(template), _listed(row, "templ_values"))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"'{path}', question {number}: {reason}. Correct it, or take the question out.") from None
        own = f"{video}_{row.get('question_id', number)}"
        name = next(name for name in chain([own], (f"{own}-{again}" for again in count(2))) if name not in names)
        names.add(name)
        found.append(Question(video, name, kind, template.strip(), words, answer, (video, words) in asked))
        asked.add((video, words))
    return found


def _text(row: Any, key: str) -> str:
    if not isinstance(row, dict):
        raise TypeError(f"it is a {type(row).__name__}, no object with keys")
    # The key of answers is misspelt in the official files.
    value = row["answer"] if key == "anser" and key not in row and "answer" in row else row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {value!r}, no text")
    return value.strip() if key != "question_content" else value


def _listed(row: dict[str, Any], key: str) -> list[str]:
    """A list that is stored as JSON within a string."""
    value = row[key]
    try:
        listed = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError(f"{key} is {value!r:.100}, no list in JSON") from None
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise ValueError(f"{key} is {value!r}, no list of texts in JSON")
    if key == "type" and tuple(listed) not in KINDS:
        raise ValueError(f"type is {value!r}, none of {', '.join(' '.join(kind) for kind in KINDS)}")
    return listed


def _filled(words: list[str], values: list[str]) -> tuple[str, ...]:
    """Each word with a placeholder is replaced by the words of the next value, whatever else it has: ``<LRer>``."""
    left = [words_of(value) for value in values]
    places = sum("<" in word for word in words)
    if places > len(left):
        raise ValueError(f"{places} placeholders, and templ_values has {len(left)}")
    if not all(left[:places]):
        raise ValueError(f"a placeholder's value in templ_values, {values!r}, has no word")
    return tuple(chain.from_iterable(left.pop(0) if "<" in word else [word] for word in words))


def vocabularies(questions: Iterable[Question]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words, `PAD` first, and answers, in the order in which questions have them."""
    words: dict[str, None] = {PAD: None}
    answers: dict[str, None] = {}
    for question in questions:
        words.update(dict.fromkeys(question.words))
        answers[question.answer] = None
    return tuple(words), tuple(answers)


def priors(questions: Iterable[Question]) -> dict[str, str]:
    """The most frequent answer to each template; of equally frequent ones the one that comes first."""
    counts: dict[str, Counter[str]] = {}
    for question in questions:
        counts.setdefault(question.template, Counter())[question.answer] += 1
    return {template: counter.most_common(1)[0][0] for template, counter in counts.items()}


def settings_in(root: Path) -> dict[str, Any]:
    """The settings that the files of a data set decide (`DatasetSpec.reads`): words, answers, lengths.

    The words and answers are those of the training questions in their order. Where these are not there, those of
    ``ques_vocab.txt`` and ``ans_vocab.txt``; without these nothing is decided, and MUSIC-AVQA's are taken. Clips are as
    long as the longest of the first training videos, if that ends a segment or more before a minute does.
    """
    home = find_root(root)
    settings: dict[str, Any] = {}
    lists = [path for version in VERSIONS if (path := list_of(home, version, "train")).is_file()]
    if lists:
        questions = read_questions(lists[0])
        words, answers = vocabularies(questions)
        longest = max((len(question.words) for question in questions), default=0)
        if longest > LENGTH:
            settings["task_options.length"] = longest
        longest_s = max(_lengths(home, questions), default=MINUTE)
        if longest_s <= MINUTE * (1 - 1 / MusicAVQADataConfig.segments):
            settings["data.clip_seconds"] = round(longest_s, 2)
    else:
        words, answers = (_lines(home / name) for name in ("ques_vocab.txt", "ans_vocab.txt"))
    settings |= {"task_options.words": list(words)} if len(words) > 1 else {}
    settings |= {"task_options.answers": list(answers)} if len(answers) > 1 else {}
    return settings


def _lengths(home: Path, questions: Iterable[Question]) -> list[float]:
    """How long the first few videos are that can be read, s, or what was extracted of their sound."""
    # PyAV would be loaded with every plugin.
    from avcore.data.media import probe

    found: list[float] = []
    for video in islice(dict.fromkeys(question.video for question in questions), LOOKED_FOR):
        paths = [home / folder / f"{video}.mp4" for folder in VIDEOS] + [home / SOUNDS / f"{video}.wav"]
        for path in filter(Path.is_file, paths):
            with suppress(AVCoreError):
                found.append(probe(path).duration_s)
                break
        if len(found) == PROBED:
            break
    return found


def _lines(path: Path) -> tuple[str, ...]:
    """The different lines of a file; one that lists everything twice, as DG-SCT's does, lists it once."""
    if not path.is_file():
        return ()
    return tuple(dict.fromkeys(line for _, line in read_lines(path)))
