"""A handful of questions in MUSIC-AVQA's layout, with pictures and empty sound files, or without media."""

import json
import wave
from pathlib import Path

from PIL import Image

__all__ = ["ROWS", "make_files", "make_questions"]


def row(
    video: str, number: int, kind: tuple[str, str], text: str, values: tuple[str, ...], answer: str
) -> dict[str, object]:
    """A row with the original's keys, lists as JSON in a string."""
    return {
        "video_id": video,
        "question_id": number,
        "type": json.dumps(kind),
        "question_content": text,
        "templ_values": json.dumps(values),
        "question_deleted": 0,
        "anser": answer,
    }


COUNT, LOUDER = "How many sounding <Object> in the video\uff1f", "Is the <Object> louder than the <Object>? "
ROWS = {
    "train": [
        row("00000001", 1, ("Audio-Visual", "Counting"), COUNT, ("piano",), "two"),
        row("00000001", 2, ("Audio", "Comparative"), LOUDER, ("piano", "flute"), "no"),
        row("00000002", 3, ("Audio-Visual", "Counting"), COUNT, ("flute",), "one"),
        row("00000003", 4, ("Audio-Visual", "Counting"), COUNT, ("flute",), "one"),
    ],
    "val": [
        row("00000002", 5, ("Audio-Visual", "Counting"), COUNT, ("piano",), "one"),
        row("00000004", 6, ("Audio", "Comparative"), LOUDER, ("flute", "piano"), "no"),
    ],
    "test": [
        row("00000004", 7, ("Audio-Visual", "Counting"), COUNT, ("piano",), "two"),
        row("00000004", 7, ("Audio-Visual", "Counting"), COUNT, ("piano",), "two"),
        row("00000005", 8, ("Audio", "Comparative"), LOUDER, ("piano", "flute"), "no"),
    ],
}


def make_questions(root: Path, version: str = "json") -> Path:
    """Five videos, of which two have questions in two splits; one test question stands there twice."""
    (root / version).mkdir(parents=True, exist_ok=True)
    for split, rows in ROWS.items():
        (root / version / f"avqa-{split}.json").write_text(json.dumps(rows))
    return root


def make_files(root: Path, seconds: int = 0) -> Path:
    """The same with media as the authors extract them: pictures, and files of so much silence, or empty ones."""
    make_questions(root)
    (root / "audio").mkdir()
    for video in sorted({str(one["video_id"]) for rows in ROWS.values() for one in rows}):
        folder = root / "frames" / video
        folder.mkdir(parents=True)
        for number in range(1, 21):
            Image.new("RGB", (8, 8)).save(folder / f"{number:06d}.jpg")
        file = root / "audio" / f"{video}.wav"
        file.touch()
        if seconds:
            with wave.open(str(file), "wb") as sound:
                sound.setparams((1, 2, 16000, 0, "NONE", ""))
                sound.writeframes(bytes(seconds * 2 * 16000))
    return root
