"""The data set of a run and the loaders of its splits."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from avcore.config import RunConfig
from avcore.data.broken import is_there, refuse_missing
from avcore.data.changes import Change, dropping, split_and_change
from avcore.data.loader import ClipLoader
from avcore.data.opening import make_task, open_dataset
from avcore.data.verify import NO_TRUTH, ends_early, has_truth
from avcore.engine.display import Display
from avcore.errors import AVCoreError, DataError
from avcore.model import AVModel
from avcore.ranks import from_all, ranks
from avcore.registry import Registry, load_registry
from avcore.runs.kept import KeptFeatures
from avcore.tasks import Clip, Dataset

__all__ = ["RunData", "list_splits", "open_data", "open_files", "too_long"]

_logger = logging.getLogger(__name__)


def open_files(
    config: RunConfig, registry: Registry, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, Path]:
    """The data set that a configuration names and the root of its files; needs no model and no weights.

    Args:
        progress: called with (clips done, clips in all) while files are made.

    Raises:
        AVCoreError: the configuration names no data, or the files are not what the reader expects.
    """
    registry = registry.recorded(config.full_names)
    return open_dataset(config, registry, make_task(config, registry), progress)


def list_splits(config: RunConfig, dataset: Dataset) -> dict[str, Sequence[Clip]]:
    """The clips of the splits that a run trains on and measures: a look at the files before the weights are made.

    Raises:
        AVCoreError: there is no such split, its list is malformed, or with ``data.broken=stop`` files are missing.
    """
    names = ("train", config.selected_on, *config.train.evaluate)
    splits = dict.fromkeys(split_and_change(name, dataset.splits)[0] for name in names)
    listed = {split: dataset.clips(split) for split in splits}
    if config.data.broken == "stop":
        for split, clips in listed.items():
            refuse_missing(split, clips, visual=config.streams != "audio", audio=config.streams != "visual")
    return listed


def too_long(clips: Sequence[Clip], segments: int) -> list[str]:
    """A line for a person if the first clip goes on behind the end of its file, as all do where the length is wrong."""
    first = next(filter(is_there, clips), None)
    path = first and (first.audio or first.frames)
    if first is None or not isinstance(path, Path):
        return []
    # A broken one is told of when it is read.
    with suppress(AVCoreError):
        return [
            f"{note} Silence and the last picture fill it up; is its length (data.clip_seconds) right?"
            for note in ends_early(first, path, segments)
        ]
    return []


def _count(dataset: Dataset, config: RunConfig) -> int:
    """How many clips a run reads; a list that cannot be read is told of when a loader asks for it."""
    names = ("train", config.selected_on, *config.train.evaluate)
    count = 0
    for split in {split_and_change(name)[0] for name in names} & set(dataset.splits):
        with suppress(AVCoreError, OSError):
            count += len(dataset.clips(split))
    return count


class _Skipped:
    """Clips that were skipped, each told of once.

    Apart from `RunData`, to which its loaders must not refer: torch takes 5 s to end the workers of a loader that is
    collected as part of a cycle.
    """

    def __init__(self) -> None:
        self.clips: dict[str, dict[str, str]] = {}
        self.say: Callable[[str], None] = _logger.warning

    def add(self, split: str, clip: str, cause: str) -> None:
        """Take in a clip of a split, and tell of it if it is new."""
        listed = self.clips.setdefault(split, {})
        if clip not in listed:
            listed[clip] = cause
            self.say(f"{split}: clip {clip} cannot be read and is skipped. {cause}")


class RunData:
    """Makes loaders of a data set, from `open_files`, that deliver what a model takes; of several processes' shares."""

    def __init__(self, config: RunConfig, model: AVModel, dataset: Dataset, root: Path) -> None:
        self.config = config
        self.model = model
        self.dataset = dataset
        self.root = root
        self._loaders: dict[tuple[str, bool], ClipLoader] = {}
        self._skipped = _Skipped()
        self._has_truth: dict[str, bool] = {}
        self._kept = KeptFeatures(model, partial(_count, dataset, config))

    @property
    def broken(self) -> dict[str, dict[str, str]]:
        """Name and cause of each clip that could not be read and was skipped, by split (``data.broken=skip``)."""
        return self._skipped.clips

    @property
    def listed(self) -> dict[str, int]:
        """How many clips each split has that was asked for."""
        return {self.split(name)[0]: len(loader.clips) for (name, _), loader in self._loaders.items()}

    def split(self, name: str) -> tuple[str, Change]:
        """The split that a name such as ``test_swapped`` means, and what its clips are given.

        Raises:
            AVCoreError: there is no such split, or a stream that it changes does not run.
        """
        split, change = split_and_change(name, self.dataset.splits)
        if missing := self.not_run(name):
            raise DataError(
                f"Split '{name}' gives clips {change.words}, but this run has no {missing} stream "
                f"(streams={self.config.streams}). Leave it out."
            )
        return split, change

    def not_run(self, name: str) -> str | None:
        """The first stream that a name such as ``test_mute_visual`` changes and the model does not have."""
        here = {"visual": self.model.image, "audio": self.model.sound}
        _, change = split_and_change(name, self.dataset.splits)
        return next((stream for stream in change.streams if here[stream] is None), None)

    def loader(self, name: str, *, train: bool = False) -> ClipLoader:
        """The batches of a split, made once; shuffled in each epoch when they are for training.

        Raises:
            AVCoreError: there is no such split, its files are missing, or it cannot be changed so.
        """
        if (name, train) not in self._loaders:
            self._loaders[name, train] = self._make(name, train)
        return self._loaders[name, train]

    def truths(self, name: str) -> ClipLoader:
        """The batches of a split without pictures and sound, which nothing is read of: targets and inputs alone."""
        return self._make(name, train=False, media=False)

    def _make(self, name: str, train: bool, *, media: bool = True) -> ClipLoader:
        split, change = self.split(name)
        config, model, here = self.config, self.model, ranks()
        if train and config.data.dropped:
            change = dropping(config.data.dropped)
        return ClipLoader(
            self.dataset,
            split,
            image=model.image if media else None,
            audio=model.sound if media else None,
            batch_size=config.train.batch_size if train else config.train.eval_batch_size,
            shuffle=train,
            # Clips that only pad a batch would enter the running statistics of a head.
            last="fill" if not train else "drop" if config.train.drop_last else "keep",
            balance=config.train.balance if train else None,
            partners=train and config.train.augment.mix.p > 0,
            kept=self._kept.of_clips(change) if media else None,
            companions=self._kept.of_companions(change, train=train) if media else None,
            seed=config.seed,
            rank=here.rank,
            world=here.world,
            workers=config.data.workers,
            cache=config.data.cache,
            change=change,
            broken="stop" if config.data.broken == "stop" else "replace" if train else "leave_out",
            broken_limit=config.data.broken_limit,
            on_broken=partial(self._skipped.add, name),
        )

    def close(self) -> None:
        """End the workers of all loaders; those that are iterated again start new ones."""
        for loader in self._loaders.values():
            loader.close()

    def prepare(self, names: Iterable[str], display: Display) -> None:
        """Decode every clip of the splits behind these names that the clip cache does not hold yet.

        Each of several processes decodes its share, and hears of the clips that others skip.
        From here on the display tells of clips that are skipped; without one they are logged.
        """
        self._skipped.say = display.line
        for said in self._kept.told():
            display.line(said)
        for split in dict.fromkeys(self.split(name)[0] for name in names):
            self._decode(split, display)
            self.look_at_truth(split)
        for found in from_all(self.broken):
            for split, clips in found.items():
                for clip, cause in clips.items():
                    self._skipped.add(split, clip, cause)

    def look_at_truth(self, name: str) -> None:
        """Say, once and loudly, if there is nothing in the truth of any clip of a split; reads up to one with some."""
        split, _ = self.split(name)
        if split not in self._has_truth:
            self._has_truth[split] = has_truth(
                self.dataset, self.loader(split).clips, self.model.task, skip=self.config.data.broken == "skip"
            )
            if not self._has_truth[split]:
                self._skipped.say(f"{split}: {NO_TRUTH}")

    @property
    def without_truth(self) -> tuple[str, ...]:
        """The splits in whose truth nothing was found by `look_at_truth`."""
        return tuple(split for split, found in self._has_truth.items() if not found)

    def _decode(self, split: str, display: Display) -> None:
        loader = self.loader(split)
        announced = False
        with display.progress(f"reading {split}", len(loader.clips), every=None) as advance:

            def decoded(done: int, total: int) -> None:
                nonlocal announced
                if not announced:
                    display.line(f"reading {split} ({total} clips) into the clip cache")
                announced = True
                advance(done, "clips")

            loader.prepare(decoded)


def open_data(model: AVModel) -> RunData:
    """The data that a model of `avcore.create_model` was made for, for anybody's loop.

    Example:
        >>> for batch in open_data(model).loader("train", train=True):  # doctest: +SKIP
        ...     loss = model.loss(model(batch), batch)

    Raises:
        AVCoreError: the model does not say what it was made from, or the data are missing.
    """
    return RunData(model.config, model, *open_files(model.config, load_registry()))
