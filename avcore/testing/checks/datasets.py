"""Checks of readers of data sets."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore.data.randomness import drawn
from avcore.errors import AVCoreError
from avcore.specs import ClipSettings, resolve
from avcore.tasks import Clip, Dataset
from avcore.testing.cases import DatasetCase
from avcore.testing.checks import Skipped, check, refusal

LOOKED_AT = 20
"""Clips of a split whose targets and inputs are loaded, and whose companions are drawn."""
MANY = 20_000
"""Files that are linked to try what a missing one does."""
EPOCHS = range(3)
"""In which companions are drawn."""


@check("data set", "splits")
def splits(case: DatasetCase) -> None:
    """Every split has clips, whose names are unique, in the same order each time they are listed."""
    reader = case.reader()
    assert reader.splits, f"'{case.spec.name}' names no splits."
    for split in reader.splits:
        names = [clip.name for clip in reader.clips(split)]
        assert names, f"Split '{split}' of '{case.spec.name}' has no clip."
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        assert not twice, f"Split '{split}' of '{case.spec.name}' has several clips named '{twice[0]}'."
        again = [clip.name for clip in case.reader().clips(split)]
        assert names == again, (
            f"Split '{split}' of '{case.spec.name}' comes in another order when it is listed again: sort what a folder "
            f"or a set holds."
        )


@check("data set", "official")
def official(case: DatasetCase) -> None:
    """What it has as it was published are numbers of clips of its own splits, ``train`` among them; a demo has none."""
    spec = case.spec
    if not spec.official:
        raise Skipped(f"'{spec.name}' does not say how many clips it has as it was published.")
    assert not spec.demo, f"'{spec.name}' is a demo, of which nothing is published: leave out official."
    other = sorted(set(spec.official) - set(case.reader().splits))
    assert not other, f"'{spec.name}' has no split '{other[0]}', of which official says how many clips it has."
    assert "train" in spec.official, f"official of '{spec.name}' leaves out 'train': other clips, other scores."
    for split, count in spec.official.items():
        whole = isinstance(count, int) and not isinstance(count, bool) and count > 0
        assert whole, f"official of '{spec.name}' gives split '{split}' {count!r} clips."


@check("data set", "files")
def files(case: DatasetCase) -> None:
    """The files of every clip exist, and it has as many pictures for each segment or a video, and a length."""
    segments = case.reader().segments
    for split, clips in case.clips.items():
        for clip in clips:
            where = f"Clip '{clip.name}' of split '{split}'"
            for path in _paths(clip):
                assert path.is_file(), (
                    f"{where}: '{path}' is no file, but its files are all there: name them as they are."
                )
            if isinstance(clip.frames, tuple):
                pictures = len(clip.frames)
                alike = pictures > 0 and pictures % segments == 0
                assert alike, f"{where} has {pictures} pictures for {segments} segments."
            assert clip.seconds > 0, f"{where} lasts {clip.seconds} s."


@check("data set", "missing files")
def missing_files(case: DatasetCase) -> None:
    """Where a file of a clip is missing, the other clips are still listed: avcore counts broken clips and goes on."""
    for split, clips in case.clips.items():
        if len(clips) < 2:  # without its only clip, a folder that is the list itself holds no split any more
            continue
        paths = _paths(clips[0])
        for path in {paths[0], paths[-1], clips[0].audio or paths[0]}:
            if not path.is_file() or not path.is_relative_to(case.root):
                continue
            root = _without(case, path)
            where = f"'{case.spec.name}' where '{path}' is missing"
            try:
                names = {clip.name for clip in case.reader(root).clips(split)}
            except Exception as error:
                raise AssertionError(
                    f"{where}: listing split '{split}' fails with {type(error).__name__}: {str(error).rstrip('.')}. "
                    f"'clips' names the files of a clip, those of its target in 'Clip.files', and does not ask whether "
                    f"they are there."
                ) from error
            lost = sorted({clip.name for clip in clips if path not in _paths(clip)} - names)
            assert not lost, f"{where}: clip '{lost[0]}' of split '{split}', which is whole, is not listed any more."


def _without(case: DatasetCase, path: Path) -> Path:
    """A folder like that of the files, by links to them, without one of them.

    Raises:
        Skipped: there are too many to link.
    """
    made = Path(tempfile.mkdtemp(dir=case.subject.folder))
    for number, file in enumerate(case.root.rglob("*")):
        if number >= MANY:
            raise Skipped(f"'{case.root}' holds more than {MANY} files; give the kit a handful.")
        to = made / file.relative_to(case.root)
        if file.is_dir():
            to.mkdir(exist_ok=True, parents=True)
        elif file != path:
            to.parent.mkdir(exist_ok=True, parents=True)
            to.symlink_to(file.absolute())
    return made


@check("data set", "targets")
def targets(case: DatasetCase) -> None:
    """The targets of all clips of a split are tensors of equal names, shapes and types."""
    reader = case.reader()
    for split, clips in case.clips.items():
        expected: dict[str, Any] | None = None
        for number, clip in enumerate(clips[:LOOKED_AT]):
            where, found = f"Clip '{clip.name}' of split '{split}'", reader.target(drawn(reader, clip, number))
            for name, value in found.items():
                assert isinstance(value, Tensor), (
                    f"{where}: the target '{name}' is a {type(value).__name__}, no tensor."
                )
            kinds = {name: (tuple(value.shape), value.dtype) for name, value in found.items()}
            expected = kinds if expected is None else expected
            assert kinds == expected, (
                f"{where}: its targets are {kinds}, those of '{clips[0].name}' {expected}: clips of a split are "
                f"stacked "
                f"to batches."
            )
            empty = case.task.is_empty(found)
            assert isinstance(empty, bool), (
                f"{where}: the task '{case.task_name}' says of its truth that it is empty: {empty!r}, no bool."
            )


@check("data set", "inputs")
def inputs(case: DatasetCase) -> None:
    """The inputs of clips are those that the task declares, in shape and type, and the same twice in one epoch."""
    declared = {
        name: (tuple(given.shape), getattr(torch, given.dtype, None)) for name, given in case.task.inputs.items()
    }
    for split, clips in case.clips.items():
        for number, clip in enumerate(clips[:LOOKED_AT]):
            where = f"Clip '{clip.name}' of split '{split}'"
            for epoch in (0, 1):
                found = _inputs(case.reader(), clip, number, epoch)
                kinds = {name: (tuple(value.shape), value.dtype) for name, value in found.items()}
                assert kinds == declared, (
                    f"{where}: its inputs are {kinds or 'none'}, and the task '{case.task_name}' declares "
                    f"{declared or 'none'}."
                )
                again = _inputs(case.reader(), clip, number, epoch)
                other = [name for name in found if not torch.equal(again[name], found[name])]
                assert not other, (
                    f"{where}: its input '{other[0]}' differs when it is read again in epoch {epoch}: draw what "
                    f"changes from the clip and the epoch, or in 'draw' from its generator."
                )


def _inputs(reader: Dataset, clip: Clip, number: int, epoch: int) -> dict[str, Tensor]:
    return reader.inputs(drawn(reader, clip, number, epoch=epoch), epoch)


@check("data set", "companions")
def companions(case: DatasetCase) -> None:
    """``draw`` depends on its generator alone, and gives all clips companions of equal names, whose files exist."""
    for split, clips in case.clips.items():
        looked_at = list(enumerate(clips[:LOOKED_AT]))
        names = None
        for epoch in EPOCHS:
            # Another reader, in the other order: nothing may hang on what was drawn before.
            one = [drawn(reader, clip, n, epoch=epoch) for reader in [case.reader()] for n, clip in looked_at]
            other = [drawn(reader, clip, n, epoch=epoch) for reader in [case.reader()] for n, clip in looked_at[::-1]]
            for first, again in zip(one, other[::-1], strict=True):
                where = f"Clip '{first.name}' of split '{split}'"
                assert _places(first) == _places(again), (
                    f"{where}: the same random generator draws something else when it is asked again: draw from the "
                    f"generator that 'draw' is given, and from nothing else."
                )
                names = sorted(first.companions) if names is None else names
                assert sorted(first.companions) == names, (
                    f"{where} has the companions {sorted(first.companions)}, others {names}: clips of a split are "
                    f"stacked to batches."
                )
                for name, companion in first.companions.items():
                    words = f"{where}: its companion '{name}', '{companion.name}',"
                    _check_companion(words, first, companion, case.reader().segments)


def _places(clip: Clip) -> tuple[Any, ...]:
    """Where a clip and its companions are read."""
    shots = [(one.frames, one.start, at) for one, at in clip.shots]
    own = (clip.name, clip.frames, clip.audio, clip.seconds, clip.start, shots)
    return (own, {name: _places(other) for name, other in clip.companions.items()})


def _check_companion(words: str, clip: Clip, companion: Clip, segments: int) -> None:
    for path in (path for one in (companion, *(one for one, _ in companion.shots)) for path in _paths(one)):
        assert path.is_file(), f"{words} has no file '{path}'."
    places = [at for _, at in companion.shots]
    assert not places or (len(places) == segments and set(places) <= set(range(segments))), (
        f"{words} has shots of the segments {places}: it takes {segments}, each from 0 to {segments - 1}."
    )
    asked, found = (_pictures(clip), clip.seconds), (_pictures(companion), companion.seconds)
    assert found == asked, (
        f"{words} has {found[0]} pictures and {found[1]} s, the clip itself {asked[0]} and {asked[1]} s: companions "
        f"are cut as clips are."
    )


def _pictures(clip: Clip) -> int | str:
    return len(clip.frames) if isinstance(clip.frames, tuple) else "a video's"


def _paths(clip: Clip) -> list[Path]:
    pictures = clip.frames if isinstance(clip.frames, tuple) else (clip.frames,)
    return [*pictures, *([clip.audio] if clip.audio is not None else []), *clip.files]


@check("data set", "wrong root")
def wrong_root(case: DatasetCase) -> None:
    """A folder that does not hold the data set is refused by a message that names it."""
    empty = case.subject.folder / f"{case.spec.name}-empty"
    for root in (empty, case.subject.folder / f"{case.spec.name}-missing"):
        empty.mkdir(parents=True, exist_ok=True)
        try:
            refused = refusal(partial(_read_all, case, root))
        except Skipped:
            raise
        except Exception as error:
            raise AssertionError(
                f"'{case.spec.name}' fails on a folder without its files with {type(error).__name__}: {error}. Raise "
                f"AVCoreError that names the file that is missing."
            ) from error
        assert refused is not None, f"'{case.spec.name}' reads clips from '{root}', which holds none."
        assert str(root) in refused, f"'{case.spec.name}' refuses '{root}' without naming it: {refused}"


def _read_all(case: DatasetCase, root: Path) -> None:
    reader = case.reader(root)
    for split in reader.splits:
        reader.clips(split)


@check("data set", "settings")
def settings(case: DatasetCase) -> None:
    """The reader cuts clips as its settings say: as many segments, and windows of that length and margin."""
    reader, given = case.reader(), case.config().data.settings
    assert isinstance(given, ClipSettings)
    found = (reader.segments, reader.windows.length, reader.windows.margin)
    asked = (given.segments, given.window_seconds, given.window_margin)
    assert found == asked, (
        f"'{case.spec.name}' has segments, window length and margin {found}, but its settings are {asked}: the front "
        f"ends "
        f"follow the settings."
    )


@check("data set", "protocols")
def protocols(case: DatasetCase) -> None:
    """What it sets under ``protocol=paper`` are settings that there are, with values that they take."""
    if not case.spec.as_published:
        raise Skipped(f"'{case.spec.name}' sets nothing under protocol=paper.")
    try:
        case.config(protocol="paper")
    except AVCoreError as error:
        raise AssertionError(f"'{case.spec.name}' cannot be used with protocol=paper: {error}") from error


@check("data set", "what is told")
def what_is_told(case: DatasetCase) -> None:
    """Notes are sentences, and what is counted in a split has names and whole numbers."""
    reader = case.reader()
    for note in reader.notes():
        assert isinstance(note, str), f"'{case.spec.name}' has the note {note!r}, no text."
    for split in case.clips:
        for name, count in reader.counts(split).items():
            whole = isinstance(count, int) and not isinstance(count, bool) and count >= 0
            assert whole, f"'{case.spec.name}' counts {count!r} of '{name}' in split '{split}', no whole number."


@check("data set", "marks")
def marks(case: DatasetCase) -> None:
    """A folder of its files has one of the files by which it is known."""
    if not case.spec.marks:
        raise Skipped(f"'{case.spec.name}' names no files by which it is known.")
    assert any(next(case.root.glob(mark), None) for mark in case.spec.marks), (
        f"'{case.root}' has none of the marks of '{case.spec.name}' ({', '.join(case.spec.marks)}): it would not be "
        "taken for what it is."
    )


@check("data set", "tasks")
def tasks(case: DatasetCase) -> None:
    """It serves the tasks whose default it is, and a run on it is configured with what its plugin requires alone."""
    spec = case.spec
    assert spec.tasks, f"'{spec.name}' serves no task."
    other = sorted(set(spec.default_for) - set(spec.tasks))
    assert not other, f"'{spec.name}' is the default of '{other[0]}', which is not among its tasks."
    if case.task_name not in case.alone.tasks:
        raise Skipped(f"The task '{case.task_name}' comes from no plugin that it requires.")
    try:
        case.config(case.alone, files=False)
    except AVCoreError as error:
        raise AssertionError(
            f"With nothing installed but what its plugin requires, a run of '{case.task_name}' on '{spec.name}' "
            f"cannot be "
            f"configured: {error}"
        ) from error


@check("data set", "what files say")
def what_files_say(case: DatasetCase) -> None:
    """``reads`` finds settings in the files that a configuration takes."""
    if not case.spec.reads:
        raise Skipped(f"'{case.spec.name}' reads no settings from its files.")
    try:
        found = resolve(case.spec.reads)(case.root)
        case.config()
    except Skipped:
        raise
    except Exception as error:
        raise AssertionError(f"'{case.spec.reads}' on '{case.spec.name}': {type(error).__name__}: {error}") from error
    assert found, f"'{case.spec.reads}' finds nothing in the files of '{case.spec.name}'."
