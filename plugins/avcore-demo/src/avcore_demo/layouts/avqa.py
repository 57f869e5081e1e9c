"""The layout of MUSIC-AVQA: questions about clips of 10 s, with their pictures and sound.

    json/avqa-{train,val,test}.json          the questions, with the keys of the official files
    frames/<id>/{000001..}.jpg               a picture a second, from the middle of it
    audio/<id>.wav                           16-bit PCM, 16 kHz, mono

Several questions are about one clip, and a clip is in one split. A clip that nothing is asked of has files too.
"""

from __future__ import annotations

import json
from pathlib import Path

from .. import media
from ..questions import Question, choose
from ..world import Clip


def write_clip(root: Path, name: str, split: str, clip: Clip, size: int) -> None:
    """Writes the pictures, of `size` px, and the sound of one clip."""
    media.write_seconds(root / "frames" / name, root / "audio" / f"{name}.wav", clip, size, digits=6)


def write_lists(root: Path, everything: list[tuple[str, str, Clip]]) -> None:
    """Writes the questions of each split."""
    (root / "json").mkdir()
    for split in ("train", "val", "test"):
        asked = choose([(name, clip) for name, of, clip in everything if of == split])
        rows = [_row(number, name, question) for number, (name, question) in enumerate(asked)]
        (root / "json" / f"avqa-{split}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _row(number: int, name: str, question: Question) -> dict[str, str | int]:
    """A question as the official files have it, with lists in strings and a misspelt key."""
    return {
        "video_id": name,
        "question_id": number,
        "type": json.dumps([question.about, question.what]),
        "question_content": question.template,
        "templ_values": json.dumps(list(question.values)),
        "question_deleted": 0,
        "anser": question.answer,
    }
