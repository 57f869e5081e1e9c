"""Reader of MUSIC-AVQA's official layout: files of questions, and media as videos or as extracted by its authors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avcore import by_number
from avcore.data.broken import is_there
from avcore.data.recordings import find_videos
from avcore.errors import AVCoreError, DataError
from avcore.specs import Windows
from avcore.tasks import Clip, Dataset, Task
from avcore_avqa.annotations import FRAMES, SOUNDS, VIDEOS, Question, find_root, list_of, priors, read_questions
from avcore_avqa.config import AVQATaskConfig, MusicAVQADataConfig
from avcore_avqa.task import QUESTION, AVQATask

__all__ = ["MusicAVQA"]

SYNTHETIC = re.compile(r"[A-Za-z]+\d{8}")
"""Ids of videos that the authors made of two, such as ``esa00000004``."""
NEGATIVE = "negative"
"""The companion: pictures of other videos of the split, which do not go with the sound."""


class MusicAVQA(Dataset):
    """A clip for each question, or each video. ``root`` holds ``json/avqa-train.json`` ..., or a folder in it does.

    Several questions share a video. `Clip.group` is the video, so that sound is swapped with that of another one. Each
    clip has the companion ``negative``, pictures of other videos of the split that are drawn in each epoch. A clip
    whose video is not there is a broken one.
    """

    splits: tuple[str, ...] = ("train", "val", "test")

    def __init__(self, config: MusicAVQADataConfig, root: Path, task: Task | None = None) -> None:
        self.config = config
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)
        self.root = find_root(Path(root))
        self.task = task if isinstance(task, AVQATask) else AVQATask(AVQATaskConfig())
        self.lists: dict[str, list[Question]] = {}
        for split in self.splits:
            if (path := list_of(self.root, config.questions, split)).is_file():
                self.lists[split] = read_questions(path)
        self._chosen: dict[str, list[Question]] = {}
        self._others: dict[str, list[Clip]] = {}
        self._places: dict[str, dict[str, int]] = {}
        self._pictures: dict[str, tuple[Path, ...]] = {}

    def clips(self, split: str) -> Sequence[Clip]:
        """A clip for each question of ``train``, ``val`` or ``test`` in the order of the file.

        Raises:
            DataError: no such split, or no such file.
        """
        return [self._clip(split, row) for row in self._rows(split)]

    def _rows(self, split: str) -> list[Question]:
        """The questions of a split that make clips, as ``data.videos`` and ``data.each`` choose them."""
        if split not in self._chosen:
            self._chosen[split] = self._choose(split)
        return self._chosen[split]

    def _choose(self, split: str) -> list[Question]:
        if split not in self.splits:
            raise DataError(f"{type(self).__name__} has no split '{split}'; it has {', '.join(self.splits)}.")
        if not self.lists.get(split):
            path = list_of(self.root, self.config.questions, split)
            raise DataError(f"Split '{split}': '{path}' is missing or has no question.")
        rows = self.lists[split]
        if self.config.videos == "real":
            rows = [row for row in rows if not SYNTHETIC.fullmatch(row.video)]
            if not rows:
                raise DataError(
                    f"Split '{split}' has no real video (data.videos=real): all ids are letters before eight digits, "
                    "as synthesised ones have them. Set data.videos=all."
                )
        return _first_of_each_video(rows) if self.config.each == "video" else rows

    def _clip(self, split: str, row: Question) -> Clip:
        frames, audio = self._media_of(row.video)
        return Clip(
            name=row.name,
            frames=frames,
            audio=audio,
            seconds=self.config.clip_seconds,
            group=row.video,
            info={"split": split, "question": row},
        )

    def counts(self, split: str) -> dict[str, int]:
        """``videos`` of the split's questions, ``without_media`` of these, and ``repeated`` questions."""
        rows = self._rows(split)
        videos = len({row.video for row in rows})
        missing = videos - len(self._videos_of(split))
        found = {"videos": videos, "without_media": missing, "repeated": sum(row.repeats for row in rows)}
        return {name: count for name, count in found.items() if count}

    def notes(self) -> Sequence[str]:
        """Which version of the questions it is, what repeats, and which splits share videos."""
        found = [f"Questions are those of {self.config.questions}/ (data.questions)."]
        for one, other in combinations(self.lists, 2):
            shared = {row.video for row in self.lists[one]} & {row.video for row in self.lists[other]}
            if shared:
                found.append(f"{len(shared)} videos have questions in {one} and in {other}: splits part questions.")
        if not self._priors:
            found.append("Without training questions there is no prior to compare scores with.")
        return found

    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        """The clip with the companion ``negative`` of other videos of its split; none where there is no other.

        Each of its pictures is that of any segment of any other video, drawn by itself, as AVST's code draws them.
        """
        videos = self._videos_of(clip.info["split"])
        own = self._places[clip.info["split"]].get(clip.group)
        count = len(videos) - (own is not None)
        if not count:
            return clip
        drawn = random.integers(count, size=self.segments)
        others = [videos[place + (own is not None and place >= own)] for place in drawn.tolist()]
        places = random.integers(self.segments, size=self.segments).tolist()
        mixed = replace(others[0], shots=tuple(zip(others, places, strict=True)))
        return replace(clip, companions={NEGATIVE: mixed})

    def _videos_of(self, split: str) -> list[Clip]:
        """A clip for each video of a split that is there, in the order of the questions."""
        if split not in self._others:
            clips = [self._clip(split, row) for row in _first_of_each_video(self._rows(split))]
            self._others[split] = [clip for clip in clips if is_there(clip)]
            self._places[split] = {clip.group: place for place, clip in enumerate(self._others[split])}
        return self._others[split]

    # ---------------------------------------------------------------------------------------------------------------
    # Media

    def _media_of(self, video: str) -> tuple[Path | tuple[Path, ...], Path | None]:
        """The video file, or the pictures and the sound that were extracted from it."""
        if video in self._files or not (self.root / FRAMES).is_dir():
            # Where there is none, the name of one that is missing, which makes a broken clip.
            return self._files.get(video, self.root / VIDEOS[0] / f"{video}.mp4"), None
        folder = self.root / FRAMES / video
        if video not in self._pictures:
            self._pictures[video] = tuple(by_number(folder.glob("*.jpg"))) or (folder / "000001.jpg",)
        pictures = self._pictures[video]
        middles = [int((segment + 0.5) * len(pictures) / self.segments) for segment in range(self.segments)]
        return tuple(pictures[index] for index in middles), self.root / SOUNDS / f"{video}.wav"

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        """The video files by their stems; an mp4 goes before others."""
        videos = [file for name in reversed(VIDEOS) for file in find_videos(self.root / name)[0]]
        return {file.stem: file for file in sorted(videos, key=lambda file: file.suffix.lower() == ".mp4")}

    # ---------------------------------------------------------------------------------------------------------------
    # Questions and answers

    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        """``question`` (L,), the ids of its words, or its letters; see `AVQATask.question`.

        Raises:
            DataError: it has words that the training questions lack, or too many.
        """
        row: Question = clip.info["question"]
        if self.task.grounds:
            return {}
        try:
            return {QUESTION: self.task.question(row.words)}
        except AVCoreError as error:
            raise DataError(f"Question '{clip.name}' of {clip.info['split']}: {error}") from None

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``answer`` () its index, ``kind`` () the type's, ``prior`` () the answer that train gives most often to the
        same template, -1 where it has none, and ``listed`` () how many of the split make clips.

        Raises:
            DataError: no training question has the answer.
        """
        row: Question = clip.info["question"]
        try:
            answer = self.task.index(row.answer)
        except AVCoreError as error:
            raise DataError(f"Question '{clip.name}' of {clip.info['split']}: {error}") from None
        prior = self._priors.get(row.template)
        return {
            "answer": torch.tensor(answer),
            "kind": torch.tensor(row.kind),
            "prior": torch.tensor(self.task.index(prior) if prior in self.task.classes else -1),
            "listed": torch.tensor(len(self._rows(clip.info["split"]))),
        }

    @cached_property
    def _priors(self) -> dict[str, str]:
        return priors(self.lists.get("train", ()))


def _first_of_each_video(rows: Sequence[Question]) -> list[Question]:
    return list({row.video: row for row in reversed(rows)}.values())[::-1]
