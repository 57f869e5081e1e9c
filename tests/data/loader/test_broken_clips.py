from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from levels import Levels, joined, numbers
from torch import Tensor

from avcore.data.changes import MUTED
from avcore.data.loader import ClipLoader
from avcore.errors import AVCoreError
from avcore.tasks import Clip


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named_in_one_line(load: Any, clips: list[Clip], tmp_path: Path, workers: int) -> None:
    (tmp_path / "x.wav").touch()
    broken = Levels([*clips[:3], replace(clips[3], audio=tmp_path / "x.wav")])
    for use in (list, ClipLoader.prepare):
        with pytest.raises(AVCoreError, match=r"x\.wav is empty \(0 bytes\)\. \(Clip clip 3 of split 'train'\."):
            use(load(dataset=broken, workers=workers))


@pytest.mark.parametrize("field", ["frames", "audio", "files"])
def test_missing_files_are_counted_before_anything_is_read(load: Any, clips: list[Clip], field: str) -> None:
    gone = Path("/nowhere/x")
    lost = [
        replace(clip, **{field: gone if field == "audio" else (gone, gone.with_suffix(".png"))}) for clip in clips[3:5]
    ]
    holed = Levels([*clips[:3], *lost, *clips[5:]])
    for dataset in (holed, Levels([*clips[:3], *lost[:1], *clips[4:]])):
        count = 2 if dataset is holed else 1
        message = rf"^{count} of 11 clips of split 'train' lack files .* clip clip 3: .*x(\.png)? does not exist"
        with pytest.raises(AVCoreError, match=message):
            load(dataset=dataset)
    told: dict[str, str] = {}
    loader = load(dataset=holed, broken="replace", broken_limit=0.2, on_broken=told.__setitem__)
    loader.prepare()
    assert list(told) == ["clip 3", "clip 4"]
    assert all("does not exist" in cause for cause in told.values())
    assert not {"clip 3", "clip 4"} & {name for batch in loader for name in batch.names}


def test_nothing_is_missing_that_is_not_read(load: Any, clips: list[Clip]) -> None:
    gone = Levels([replace(clip, audio=Path("/nowhere/x.wav")) for clip in clips])
    assert len(list(load(dataset=gone, audio=None))) == 3
    assert len(list(load(dataset=gone, change=MUTED["_mute_audio"]))) == 3


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file or directory", "/nowhere/t.npy"), EOFError()])
@pytest.mark.parametrize("of", ["target", "inputs", "draw"])
def test_what_a_reader_cannot_open_makes_a_broken_clip(
    load: Any, clips: list[Clip], monkeypatch: pytest.MonkeyPatch, error: Exception, of: str
) -> None:
    """An author who opens files by other means than avcore's has no need to turn errors into others."""
    dataset = Levels(clips)
    original = getattr(dataset, of)

    def torn(clip: Clip, *given: Any) -> Any:
        if clip.name == "clip 3":
            raise error
        return original(clip, *given)

    monkeypatch.setattr(dataset, of, torn)
    says = "/nowhere/t.npy" if isinstance(error, OSError) else "A file of clip clip 3"
    with pytest.raises(AVCoreError, match=rf"{says} cannot be read: .*\(Clip clip 3 of split 'train'\."):
        list(load(dataset=dataset))
    loader = load(dataset=dataset, broken="leave_out", broken_limit=0.2)
    list(loader)
    assert list(loader.broken) == ["clip 3"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_clip_is_replaced_by_another_of_the_split(load: Any, holed: Levels, workers: int) -> None:
    told: dict[str, str] = {}
    loader = load(dataset=holed, workers=workers, broken="replace", broken_limit=0.2, on_broken=told.__setitem__)
    whole = numbers(load())
    epochs = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert [batch.valid.sum() for batch in batches] == [4, 4, 3]
        for batch in batches:  # the clip that takes the place comes with its own name, sound and target
            for place, number in enumerate(batch.targets["number"].tolist()):
                assert batch.names[place] == f"clip {number}"
                assert batch.samples[place] == number
                assert batch.waveform[place].eq(number + 1).all()
                assert batch.frames[place].shape == (2, 3, 8, 8)
        epochs.append([batch.targets["number"].tolist() for batch in batches])
    changed = [(was, now) for was, now in zip(joined(whole), joined(epochs[0]), strict=True) if was != now]
    assert {was for was, _ in changed} == {2, 7}
    assert not {now for _, now in changed} & {2, 7}
    assert told == {"clip 2": "/nowhere/2.wav does not exist.", "clip 7": "Clip clip 7 has 1 pictures for 2 segments."}
    assert loader.broken == told

    again = load(dataset=holed, broken="replace", broken_limit=0.2)
    again.set_epoch(2)
    again.set_position(1)
    assert numbers(again) == epochs[2][1:], "the same clips, whatever came before and however many workers there are"


def test_other_epochs_take_other_clips(load: Any, holed: Levels) -> None:
    loader = load(dataset=holed, broken="replace", broken_limit=0.2, shuffle=False)
    taken = set()
    for epoch in range(8):
        loader.set_epoch(epoch)
        taken.add(joined(numbers(loader))[2])
    assert len(taken) > 3


@pytest.mark.parametrize("workers", [0, 2])
def test_where_scores_are_taken_a_broken_clip_counts_nowhere(load: Any, holed: Levels, workers: int) -> None:
    loader = load(dataset=holed, workers=workers, broken="leave_out", broken_limit=0.2, shuffle=False)
    batches = list(loader)
    counted = [name for batch in batches for name, valid in zip(batch.names, batch.valid, strict=True) if valid]
    assert counted == [f"clip {number}" for number in range(11) if number not in (2, 7)]
    assert list(loader.broken) == ["clip 2", "clip 7"]
    assert [len(batch) for batch in batches] == [4, 4, 4]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("use", [list, ClipLoader.prepare])
def test_too_many_broken_clips_are_an_error(load: Any, holed: Levels, workers: int, use: Any) -> None:
    with pytest.raises(AVCoreError, match=r"2 of 11 clips .* 18\.2% .* 1\.0%.*The last: clip clip [27]: "):
        use(load(dataset=holed, workers=workers, broken="replace"))
    with pytest.raises(AVCoreError, match=r"2 of 11 clips of split 'train' .*data\.broken_limit allows 10\.0%"):
        use(load(dataset=holed, broken="leave_out", broken_limit=0.1))
    nothing = Levels([replace(clip, audio=Path("/nowhere/x.wav")) for clip in holed.clips("train")])
    with pytest.raises(AVCoreError, match="No clip of split 'train' can be read"):
        list(load(dataset=nothing, broken="replace", broken_limit=1.0))


def test_filling_the_cache_goes_on_without_broken_clips(load: Any, holed: Levels, tmp_path: Path) -> None:
    loader = load(dataset=holed, broken="leave_out", broken_limit=0.2)
    done: list[int] = []
    loader.prepare(lambda number, total: done.append(number))
    assert done == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11]  # of clip 2 the pictures; of clip 7 nothing
    assert list(loader.broken) == ["clip 2", "clip 7"]


def test_a_target_that_cannot_be_read_is_a_broken_clip(load: Any, clips: list[Clip]) -> None:
    class Torn(Levels):
        def target(self, clip: Clip) -> dict[str, Tensor]:
            if clip.name == "clip 5":
                raise AVCoreError("mask 5 is torn.")
            return super().target(clip)

    loader = load(dataset=Torn(clips), broken="replace", broken_limit=0.1)
    assert 5 not in joined(numbers(loader))
    assert loader.broken == {"clip 5": "mask 5 is torn."}


def test_a_cache_that_fails_is_nobodys_broken_clip(load: Any, tmp_path: Path) -> None:
    (tmp_path / "frames").write_text("in the way")
    with pytest.raises(AVCoreError, match=r"clip cache .* cannot be"):
        list(load(broken="replace", broken_limit=0.9))
