"""Reader of LLP's official layout: lists of clips, files of seconds, and media as videos or as extracted by HAN."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from avcore import by_number, read_features
from avcore.data.broken import is_there
from avcore.data.recordings import find_videos
from avcore.errors import DataError
from avcore.specs import Windows
from avcore.tasks import Clip, Dataset, Task
from avcore_avvp.annotations import (
    FEATS,
    LISTS,
    MOTION,
    Event,
    Labelled,
    Remark,
    classes_in,
    find_root,
    look_at_events,
    look_at_lists,
    read_clips,
    read_events,
    told,
)
from avcore_avvp.config import FEATURES, LLPDataConfig
from avcore_avvp.task import AVVPTask

__all__ = ["LLP", "LLPFeatures"]

AUDIO, VISUAL = "AVVP_eval_audio.csv", "AVVP_eval_visual.csv"
AUDIO_BEFORE_FIX = "AVVP_eval_audio.before_2024_fix.csv"
FIXED = (
    Event("JfZEqeLZqWk_30_40", 0, 4, "Speech"),
    Event("JfZEqeLZqWk_30_40", 7, 10, "Speech"),
    Event("KvIjsmANkxI_10_20", 0, 1, "Cat"),
)
"""Lines of the audio truth that named no clip before the fix of 2024, as they are since."""
VIDEOS, FRAMES, SOUNDS = "video", "frame", "audio"
BLANK = Path(__file__).with_name("blank.png")
"""A grey picture, which stands for all where nothing but features is looked at."""
HOME = "LLP_dataset"
"""The folder of the media beside the lists in HAN's repository."""


class LLP(Dataset):
    """Clips of 10 s, each with the classes that occur in it. ``root`` holds ``AVVP_train.csv``, or a folder in it does.

    Media are named by the first eleven characters of the clip's name. A clip whose media have vanished from the web
    is a broken one. Training clips have ``labels`` alone. `Clip.group` is the clip's classes.
    """

    splits: tuple[str, ...] = ("train", "val", "test")

    def __init__(self, config: LLPDataConfig, root: Path, task: Task | None = None) -> None:
        self.config = config
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)
        self.root = find_root(Path(root))
        self.classes = classes_in(self.root)
        if isinstance(task, AVVPTask) and task.classes != self.classes:
            raise DataError(
                f"The lists in '{self.root}' have {_listed(self.classes)}, but task_options.classes has "
                f"{_listed(task.classes)}: leave that setting out, and the names are taken from the files."
            )
        self.features = task.config.features if isinstance(task, AVVPTask) else ()
        self.lists: dict[str, list[Labelled]] = {}
        self._remarks: list[Remark] = []
        for split, file in LISTS.items():
            if (path := self.root / file).is_file():
                self.lists[split], remarks = read_clips(path)
                self._remarks += remarks

    # ---------------------------------------------------------------------------------------------------------------
    # Clips and their media

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of ``train``, ``val`` or ``test`` in the order of the list.

        Raises:
            DataError: no such split, or a malformed list.
        """
        if split not in self.splits:
            raise DataError(f"{type(self).__name__} has no split '{split}'; it has {', '.join(self.splits)}.")
        if not self.lists.get(split):
            raise DataError(f"Split '{split}': '{self.root / LISTS[split]}' is missing or lists no clip.")
        made = []
        for row in self.lists[split]:
            frames, audio = self.media_of(row.media)
            made.append(
                Clip(
                    name=row.name,
                    frames=frames,
                    audio=audio,
                    seconds=self.config.clip_seconds,
                    group=", ".join(row.labels),
                    info={"split": split, "labels": row.labels, "media": row.media},
                    files=tuple(self._feature_file(name, row.media) for name in self.features),
                )
            )
        return made

    def counts(self, split: str) -> dict[str, int]:
        """``without_media``, clips that are on the list alone; of val and test, where they have seconds, besides:

        ``silent`` and ``unseen``, clips without an event in sound and in pictures, and ``labels_differ``, those whose
        classes are not the ones of their lines of seconds.
        """
        clips = self.clips(split)
        found = {"without_media": sum(not is_there(clip) for clip in clips)}
        if split != "train" and (self.root / AUDIO).is_file() and (self.root / VISUAL).is_file():
            targets = [self.target(clip) for clip in clips]
            found["silent"] = sum(not target["seconds"][:, 0].any() for target in targets)
            found["unseen"] = sum(not target["seconds"][:, 1].any() for target in targets)
            heard, _, seen = self._truth
            said = [{event.label for events in (heard, seen) for event in events.get(clip.name, ())} for clip in clips]
            found["labels_differ"] = sum(
                set(clip.info["labels"]) != labels for clip, labels in zip(clips, said, strict=True)
            )
        return {name: count for name, count in found.items() if count}

    def notes(self) -> Sequence[str]:
        """Lines that are odd, file by file, and in how many clips the audio truth is not what it was before 2024."""
        splits = {row.name: split for split, rows in self.lists.items() for row in rows}
        remarks = [*self._remarks, *look_at_lists(self.lists)]
        for file in (AUDIO, AUDIO_BEFORE_FIX, VISUAL):
            if (path := self.root / file).is_file():
                remarks += look_at_events(path, read_events(path, self.classes), splits, self.config.clip_seconds)
        found = told(remarks)
        if MOTION not in self.features and not (self.root / FEATS / MOTION).is_dir():
            found.append(
                f"There are no features of motion ({FEATS}/{MOTION}); a head that is published with them goes without. "
                f"Where they lie elsewhere, set data.features and task_options.features=[{MOTION}]."
            )
        if (self.root / AUDIO).is_file() and (self.root / VISUAL).is_file():
            heard, before, _ = self._truth
            changed = sum(set(heard.get(name, ())) != set(before.get(name, ())) for name in splits)
            if changed:
                found.append(
                    f"The audio truth of {changed} clips is another one since its fix of April 2024. Published numbers "
                    "stand on the older one, and so does protocol=paper; protocol=clean takes the newer."
                )
        return found

    def media_of(self, media: str) -> tuple[Path | tuple[Path, ...], Path | None]:
        """The pictures and the sound that go by the first eleven characters of a clip's name."""
        return self._video(media) if self._media == "video" else self._extracted(media)

    @cached_property
    def _home(self) -> Path:
        """The folder of the media."""
        folders = (VIDEOS, FRAMES)
        return next(
            (at for at in (self.root, self.root / HOME) if any((at / one).is_dir() for one in folders)), self.root
        )

    @cached_property
    def _media(self) -> str:
        if self.config.media != "auto":
            return self.config.media
        for folder, kind in ((VIDEOS, "video"), (FRAMES, "frames")):
            if (self._home / folder).is_dir():
                return kind
        raise DataError(
            f"'{self.root}' has no media: neither {VIDEOS}/<id>.mp4 nor {FRAMES}/<id>/*.jpg with {SOUNDS}/<id>.wav, "
            f"there or in {HOME}."
        )

    @cached_property
    def _videos(self) -> dict[str, Path]:
        """The video files by their stems; an mp4 goes before others."""
        videos, _ = find_videos(self._home / VIDEOS)
        return {file.stem: file for file in sorted(videos, key=lambda file: file.suffix.lower() == ".mp4")}

    def _video(self, media: str) -> tuple[Path, None]:
        # Where there is none, the name of one that is missing, which makes a broken clip.
        return self._videos.get(media, self._home / VIDEOS / f"{media}.mp4"), None

    def _extracted(self, media: str) -> tuple[tuple[Path, ...], Path]:
        folder = self._home / FRAMES / media
        pictures = by_number(folder.glob("*.jpg")) or [folder / "00000001.jpg"]
        middles = [int((segment + 0.5) * len(pictures) / self.segments) for segment in range(self.segments)]
        return tuple(pictures[index] for index in middles), self._home / SOUNDS / f"{media}.wav"

    def _feature_file(self, name: str, media: str) -> Path:
        folder = Path(self.config.features).expanduser() if self.config.features else self.root / FEATS
        found = (folder / name / f"{media}{ending}" for ending in (".npy", ".pt", ".h5"))
        return next((path for path in found if path.is_file()), folder / name / f"{media}.npy")

    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        """The features that the task asks for, as float32."""
        return {name: read_features(path, FEATURES[name]) for name, path in zip(self.features, clip.files, strict=True)}

    # ---------------------------------------------------------------------------------------------------------------
    # Truth

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``labels`` (C,) float32, 1 for each class of the clip; of val and test besides:

        ``seconds`` (T, 2, C) bool, what is heard (0) and seen (1) in each segment; ``seconds_before_fix``, the same
        with the audio truth as it was before the fix of 2024; ``listed`` (), the clips that the split's list has.
        """
        labels_C = torch.tensor([float(name in clip.info["labels"]) for name in self.classes])
        split = clip.info["split"]
        if split == "train":
            return {"labels": labels_C}
        heard_TC, before_TC, seen_TC = (self._seconds(events, clip) for events in self._truth)
        return {
            "labels": labels_C,
            "seconds": torch.stack([heard_TC, seen_TC], dim=1),
            "seconds_before_fix": torch.stack([before_TC, seen_TC], dim=1),
            "listed": torch.tensor(len(self.lists[split])),
        }

    def _seconds(self, events: dict[str, list[Event]], clip: Clip) -> Tensor:
        found_TC = torch.zeros(self.segments, len(self.classes), dtype=torch.bool)
        begins_T = torch.arange(self.segments, dtype=torch.float64) * self.config.clip_seconds / self.segments
        for event in events.get(clip.name, ()):
            found_TC[:, self.classes.index(event.label)] |= (event.onset <= begins_T) & (begins_T < event.offset)
        return found_TC

    @cached_property
    def _truth(self) -> tuple[dict[str, list[Event]], dict[str, list[Event]], dict[str, list[Event]]]:
        """What is heard, what was said to be heard before the fix of 2024, and what is seen; by clip.

        Whether the file of sound is the one before or after the fix, what the other has follows.
        """
        events = read_events(self.root / AUDIO, self.classes)
        known = {event.name for event in events}
        heard = {*events, *(event for event in FIXED if event.name in known)}
        older = self.root / AUDIO_BEFORE_FIX
        heard_before = read_events(older, self.classes) if older.is_file() else heard.difference(FIXED)
        seen = read_events(self.root / VISUAL, self.classes)
        return _by_clip(heard), _by_clip(heard_before), _by_clip(seen)


class LLPFeatures(LLP):
    """The same for heads that see nothing but features: the pictures of all clips are one grey picture."""

    def media_of(self, media: str) -> tuple[Path | tuple[Path, ...], Path | None]:
        """The grey picture; there is no sound."""
        return (BLANK,) * self.segments, None


def _by_clip(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event.name, []).append(event)
    return found


def _listed(classes: Sequence[str]) -> str:
    """Such as ``25 classes (Speech, Car, ..., Clapping)``."""
    shown = classes if len(classes) < 5 else (*classes[:2], "...", classes[-1])
    return f"{len(classes)} classes ({', '.join(shown)})"
