from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from avcore.data.changes import MUTED, Change
from avcore.data.loader import ClipLoader, swap
from avcore.data.reader import PARTNER
from avcore.errors import AVCoreError
from avcore.specs import AudioGeometry, ImageGeometry, Windows
from avcore.tasks import Batch, Clip, Dataset

SWAPPED, NOISE = Change(sound="swapped"), Change(sound="noise")


class Levels(Dataset):
    """Eleven clips of two pictures and one second of sound, all of them the number of the clip."""

    segments = 2
    windows = Windows(length=0.5, margin=0.5)
    splits = ("train", "test")

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = clips

    def clips(self, split: str) -> Sequence[Clip]:
        return self._clips if split == "train" else []

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {"number": torch.tensor(clip.info["number"]), "mask": torch.full((2, 4), float(clip.info["number"]))}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, make_wav: Any) -> list[Clip]:
    root = tmp_path_factory.mktemp("levels")
    made = []
    for number in range(11):
        picture = root / f"{number}.png"
        Image.new("RGB", (4, 4), (number, 0, 0)).save(picture)
        sound = make_wav(root / f"{number}.wav", np.full(8000, number + 1, np.int16), rate=8000)
        info = {"number": number}
        group = "abc"[number % 3]
        made.append(
            Clip(name=f"clip {number}", frames=(picture, picture), audio=sound, seconds=1.0, group=group, info=info)
        )
    return made


@pytest.fixture
def load(clips: list[Clip], tmp_path: Path) -> Any:
    def make(**changes: Any) -> ClipLoader:
        settings: dict[str, Any] = dict(
            image=ImageGeometry(size=8),
            audio=AudioGeometry(rate=8000),
            batch_size=4,
            shuffle=True,
            seed=3,
            cache=tmp_path,
        )
        dataset = changes.pop("dataset", Levels(clips))
        return ClipLoader(dataset, changes.pop("split", "train"), **(settings | changes))

    return make


def numbers(loader: ClipLoader) -> list[list[int]]:
    return [batch.targets["number"].tolist() for batch in loader]


def joined(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def assert_same(left: Batch, right: Batch) -> None:
    assert left.names == right.names
    assert left.frames is not None
    assert right.frames is not None
    assert left.waveform is not None
    assert right.waveform is not None
    assert torch.equal(left.frames, right.frames)
    assert torch.equal(left.waveform, right.waveform)
    assert torch.equal(left.valid, right.valid)
    assert torch.equal(left.targets["mask"], right.targets["mask"])


def test_what_belongs_together_stays_together(load: Any) -> None:
    batches = list(load())
    assert len(load()) == len(batches) == 3
    for batch in batches:
        assert batch.frames.shape == (4, 2, 3, 8, 8)
        assert batch.frames.dtype == torch.uint8
        assert batch.waveform.shape == (4, 8000)
        assert batch.waveform.dtype == torch.int16
        assert batch.targets["mask"].shape == (4, 2, 4)
        for place, number in enumerate(batch.targets["number"].tolist()):
            assert batch.names[place] == f"clip {number}"
            assert batch.samples[place] == number
            assert batch.frames[place, :, 0].eq(number).all()
            assert batch.waveform[place].eq(number + 1).all()


@pytest.mark.parametrize("total", [1, 4, 5, 11])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("last", ["fill", "keep"])
def test_several_processes_see_every_clip_once(load: Any, clips: list[Clip], total: int, world: int, last: str) -> None:
    one = load(dataset=Levels(clips[:total]), batch_size=2, last=last, rank=0, world=1)
    shares = [load(dataset=Levels(clips[:total]), batch_size=2, last=last, rank=r, world=world) for r in range(world)]
    orders = []
    for epoch in range(2):
        for loader in (one, *shares):
            loader.set_epoch(epoch)
        batches = [list(loader) for loader in shares]
        assert {len(share) for share in batches} == {len(loader) for loader in shares} == {-(-total // (2 * world))}
        counted = [[batch.samples[batch.valid].tolist() for batch in share] for share in batches]
        assert sorted(joined([joined(share) for share in counted])) == list(range(total))
        # Clip by clip in turn: the order of the epoch is the same on all.
        whole = joined([batch.samples[batch.valid].tolist() for batch in one])
        for number, step in enumerate(zip(*counted, strict=True)):
            chosen = whole[number * 2 * world : (number + 1) * 2 * world]
            assert list(step) == [chosen[rank::world] for rank in range(world)]
        orders.append(whole)
        if last == "fill":
            assert {len(batch.names) for share in batches for batch in share} == {2}
    assert total < 5 or orders[0] != orders[1]


def test_several_processes_leave_out_what_fills_no_batch_of_all(load: Any) -> None:
    shares = [load(last="drop", batch_size=2, rank=rank, world=3) for rank in range(3)]
    assert [loader.left_out for loader in shares] == [5, 5, 5]
    assert [[batch.valid.tolist() for batch in loader] for loader in shares] == [[[True, True]]] * 3


def test_several_processes_decode_what_is_theirs(load: Any, tmp_path: Path) -> None:
    told = []
    for rank in range(3):
        load(rank=rank, world=3).prepare(lambda *done: told.append(done))
    assert told == [(3, 11), (6, 11), (9, 11), (11, 11)] * 2 + [(3, 11), (6, 11), (9, 11)]


def test_the_last_batch_is_filled_up_and_marked(load: Any) -> None:
    batches = list(load(shuffle=False))
    assert [batch.valid.tolist() for batch in batches] == [[True] * 4, [True] * 4, [True, True, True, False]]
    assert batches[2].targets["number"].tolist() == [8, 9, 10, 0]
    counted = [name for batch in batches for name, valid in zip(batch.names, batch.valid, strict=True) if valid]
    assert counted == [f"clip {number}" for number in range(11)]
    assert load().left_out == 0
    [lone] = load(batch_size=25)
    assert lone.valid.sum() == 11
    assert len(lone) == 25


@pytest.mark.parametrize(
    ("last", "size", "expected", "left"),
    [("drop", 4, [4, 4], 3), ("keep", 4, [4, 4, 3], 0), ("drop", 12, [11], 0), ("keep", 12, [11], 0)],
)
def test_a_smaller_last_batch_is_kept_as_it_is_or_left_out(load: Any, last: str, size: int, expected: Any, left: int):
    loader = load(last=last, batch_size=size)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [len(batch.frames) for batch in batches] == expected
    assert all(batch.valid.all() for batch in batches)
    assert (len(loader), loader.left_out) == (len(expected), left)


def test_balanced_epochs_draw_rare_classes_as_often(load: Any, clips: list[Clip]) -> None:
    class Rare(Levels):
        def target(self, clip: Clip) -> dict[str, Tensor]:
            # One clip of class 1 and two of class 2, of which one shows it beside the frequent class 0.
            number = clip.info["number"]
            labels = {3: [1, 1], 5: [2, 2], 7: [2, 0]}.get(number, [0, 0])
            hot = torch.zeros(2, 3).scatter_(1, torch.tensor(labels)[:, None], 1.0)
            return {"number": torch.tensor(number), "labels": torch.tensor(labels), "hot": hot}

    for name in ("labels", "hot"):
        loader = load(dataset=Rare(clips), balance=name, batch_size=11)
        drawn = []
        for epoch in range(200):
            loader.set_epoch(epoch)
            drawn += joined([request.clips for request in loader._schedule(epoch)])
        share = [sum(number in rare for number in drawn) / len(drawn) for rare in ([3], [5, 7])]
        assert share == pytest.approx([1 / 2.89, 1 / 2.89], abs=0.03)
        assert len(drawn) == 200 * 11
        again = load(dataset=Rare(clips), balance=name, batch_size=4)
        assert joined([request.clips for request in again._schedule(199)])[:11] == drawn[-11:]
    with pytest.raises(AVCoreError, match=r"train.balance is 'label', which is no target .*Did you mean 'labels'"):
        load(dataset=Rare(clips), balance="label")


def test_the_order_depends_on_seed_and_epoch_alone(load: Any) -> None:
    loader = load()
    first = numbers(loader)
    torch.rand(7)
    assert numbers(loader) == first
    loader.set_epoch(1)
    second = numbers(loader)
    assert second != first
    assert sorted(joined(second)[:11]) == list(range(11))
    loader.set_epoch(0)
    assert numbers(loader) == first
    assert numbers(load(batch_size=11)) == [joined(first)[:11]]
    assert numbers(load(seed=4)) != first
    assert joined(numbers(load(shuffle=False)))[:11] == list(range(11))


def test_an_epoch_can_begin_in_the_middle(load: Any) -> None:
    loader = load()
    loader.set_epoch(2)
    whole = numbers(loader)
    loader.set_position(2)
    assert numbers(loader) == whole[2:]
    assert numbers(loader) == whole
    assert len(loader) == 3


def test_workers_change_nothing(load: Any) -> None:
    alone, helped = load(), load(workers=2)
    state = torch.get_rng_state()
    for epoch in range(2):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        for left, right in zip(alone, helped, strict=True):
            assert_same(left, right)
    next(iter(helped))  # an epoch left in the middle
    assert numbers(helped) == numbers(alone)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_that_is_off_is_not_loaded(load: Any, clips: list[Clip]) -> None:
    mute = Levels([replace(clip, audio=None) for clip in clips])
    assert next(iter(load(dataset=mute, audio=None))).waveform is None
    blind = Levels([replace(clip, frames=()) for clip in clips])
    assert next(iter(load(dataset=blind, image=None))).frames is None


def test_swapped_sound_is_of_another_group_and_always_the_same(load: Any) -> None:
    def pairs(loader: ClipLoader) -> dict[int, int]:
        return {
            number: int(wave[0]) - 1
            for batch in loader
            for number, wave in zip(batch.targets["number"].tolist(), batch.waveform, strict=True)  # type: ignore[arg-type]
        }

    loader = load(change=SWAPPED)
    found = pairs(loader)
    assert sorted(found.values()) == list(range(11))
    assert all(number % 3 != donor % 3 for number, donor in found.items())
    loader.set_epoch(5)
    assert pairs(loader) == found
    assert pairs(load(change=SWAPPED, shuffle=False, batch_size=2)) == found
    assert pairs(load(change=SWAPPED, seed=4)) != found


@pytest.mark.parametrize("groups", ["ab", "aabb", "aaabbb", "abcabcc", "", "aaaaabcbcbc"])
@pytest.mark.parametrize("seed", range(20))
def test_every_clip_is_swapped_once_where_groups_allow(groups: str, seed: int) -> None:
    listed = list(groups) or [""] * 7
    donors = swap(len(listed), listed, seed)
    assert sorted(donors) == list(range(len(listed)))
    assert all(donor != clip for clip, donor in enumerate(donors))
    assert all(not group or listed[donor] != group for group, donor in zip(listed, donors, strict=True))


def test_a_group_of_more_than_half_is_still_swapped_with_others() -> None:
    groups = ["a", "a", "a", "a", "b"]
    donors = swap(5, groups, 0)
    assert [groups[donor] for donor in donors] == ["b", "b", "b", "b", "a"]
    with pytest.raises(AVCoreError, match="two groups"):
        swap(3, ["a", "a", "a"], 0)


def test_mute_sound_is_silence_and_reads_no_file(load: Any, clips: list[Clip]) -> None:
    missing = Levels([replace(clip, audio=Path("missing.wav")) for clip in clips])
    for batch in load(dataset=missing, change=MUTED["_mute_audio"]):
        assert batch.waveform.shape == (4, 8000)
        assert not batch.waveform.any()
        assert batch.frames[:, 0, 0, 0, 0].tolist() == batch.targets["number"].tolist()


@pytest.mark.parametrize("frames", [1, 2])
def test_mute_pictures_are_what_the_backbone_takes_to_zero_and_no_file_is_read(
    load: Any, clips: list[Clip], frames: int
) -> None:
    missing = Levels([replace(clip, frames=(Path("missing.png"),) * 2) for clip in clips])
    image = ImageGeometry(size=8, mean=(0.1, 0.5, 0.9), std=(0.2, 0.2, 0.2), frames=frames)
    batch = next(iter(load(dataset=missing, image=image, change=MUTED["_mute_visual"])))
    assert batch.frames.dtype == torch.uint8
    assert batch.frames.shape == (4, 2, *image.shape)
    normed = (batch.frames.movedim(-3, -1) / 255 - torch.tensor(image.mean)) / torch.tensor(image.std)
    assert normed.abs().max() < 0.5 / 255 / 0.2 + 1e-6
    assert batch.waveform[:, 0].tolist() == (batch.targets["number"] + 1).tolist()
    batch = next(iter(load(dataset=missing, image=image, change=MUTED["_mute_both"])))
    assert not batch.waveform.any()
    assert batch.frames.unique().tolist() == [26, 128, 230]


@pytest.mark.parametrize("channels", [1, 2])
def test_noise_is_as_loud_as_the_clip_s_own_sound_and_always_the_same(
    load: Any, clips: list[Clip], make_wav: Any, tmp_path: Path, channels: int
) -> None:
    time = np.arange(8000) / 8000
    tones = [(amplitude * np.sin(2 * np.pi * 440 * time)).astype(np.int16) for amplitude in (0, 1000, 4000, 30000)]
    loud = [
        replace(clip, audio=make_wav(tmp_path / f"{number}.wav", tone, rate=8000))
        for number, (clip, tone) in enumerate(zip(clips, tones, strict=False))
    ]

    def sounds(**changes: Any) -> Tensor:
        given = {"shuffle": False, "dataset": Levels(loud), "audio": AudioGeometry(rate=8000, channels=channels)}
        found = next(iter(load(**(given | changes)))).waveform
        assert found is not None
        return found

    def level(sound: Tensor) -> Tensor:
        return sound.float().square().flatten(1).mean(1).sqrt()

    own, noise = sounds(), sounds(change=NOISE)
    assert noise.dtype == torch.int16
    assert not noise[0].any()  # as silent as its clip
    torch.testing.assert_close(level(noise)[1:3], level(own)[1:3], rtol=0.03, atol=0)
    quiet = sounds(change=replace(NOISE, noise_db=-20.0))
    torch.testing.assert_close(level(quiet)[1:], level(own)[1:] / 10, rtol=0.03, atol=0.5)
    assert (
        sounds(change=replace(NOISE, noise_db=40.0))[3].int().abs() >= 32767
    ).float().mean() > 0.9  # cut, not wrapped
    spectrum = torch.fft.rfft(noise[2].float().reshape(-1, 8000)[0]).abs().square()
    halves = spectrum[1:2000].mean() / spectrum[2000:].mean()
    assert 0.85 < halves < 1.15  # white
    assert torch.equal(sounds(change=NOISE, batch_size=2), noise[:2])
    turned = sounds(change=NOISE, dataset=Levels(loud[::-1]))
    assert torch.equal(turned.flip(0), noise)
    assert not torch.equal(sounds(change=NOISE, seed=4)[1:], noise[1:])


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
def test_the_cache_can_be_filled_beforehand(load: Any, clips: list[Clip], tmp_path: Path, workers: int) -> None:
    told: list[tuple[int, int]] = []
    loader = load(workers=workers)
    loader.prepare(lambda done, total: told.append((done, total)))
    assert told == [(done, 11) for done in range(1, 12)]
    loader.prepare(lambda done, total: told.append((done, total)))
    assert len(told) == 11
    assert len(list(tmp_path.rglob("*.npy"))) == 22
    assert len(list(loader)) == 3


def test_mistakes_of_readers_are_explained(load: Any, clips: list[Clip]) -> None:
    with pytest.raises(AVCoreError, match=r"no split 'tets' here, only train, test\. Did you mean 'test'\?"):
        load(split="tets")
    with pytest.raises(AVCoreError, match="Split 'test' has 0 clips"):
        load(split="test")
    with pytest.raises(AVCoreError, match=r"clip 10 lasts 0\.5 s and clip 0 1\.0 s"):
        load(dataset=Levels([*clips[:10], replace(clips[10], seconds=0.5)]))

    class Uneven(Levels):
        def target(self, clip: Clip) -> dict[str, Tensor]:
            return {"mask": torch.zeros(clip.info["number"])}

    with pytest.raises(AVCoreError, match="targets of clip clip 1 are"):
        list(load(dataset=Uneven(clips), shuffle=False))


@pytest.fixture
def holed(clips: list[Clip]) -> Levels:
    """Clip 2 has no sound, clip 7 no second picture."""
    broken = list(clips)
    broken[2] = replace(clips[2], audio=Path("/nowhere/2.wav"))
    broken[7] = replace(clips[7], frames=clips[7].frames[:1])  # type: ignore[index]
    return Levels(broken)


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


@pytest.mark.parametrize("workers", [0, 2])
def test_every_clip_comes_with_the_sound_of_another(load: Any, workers: int) -> None:
    loader, alone = load(partners=True, workers=workers), load(partners=True)
    pairs: list[dict[int, int]] = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        alone.set_epoch(epoch)
        pairs.append({})
        for batch, same in zip(loader, alone, strict=True):
            partner = batch.companions[PARTNER]
            assert partner.frames is None
            assert torch.equal(partner.waveform, same.companions[PARTNER].waveform)
            assert torch.equal(partner.samples, batch.samples)
            for place, number in enumerate(batch.samples.tolist()):
                other = int(partner.waveform[place, 0]) - 1
                assert partner.names[place] == f"clip {other}"
                assert other != number
                assert pairs[-1].setdefault(number, other) == other
    assert len({tuple(sorted(one.items())) for one in pairs}) == 3
    assert len({other for one in pairs for other in one.values()}) > 7
    # The rest of the epoch, after a stop: the same.
    alone.set_epoch(2)
    alone.set_position(1)
    rest = [(batch.samples.tolist(), batch.companions[PARTNER].waveform[:, 0] - 1) for batch in alone]
    assert all([pairs[2][one] for one in samples] == others.tolist() for samples, others in rest)


def test_partners_of_one_clip_and_of_a_stream_that_is_off(load: Any, clips: list[Clip]) -> None:
    (batch,) = load(dataset=Levels(clips[:1]), partners=True, last="keep")
    assert torch.equal(batch.companions[PARTNER].waveform, batch.waveform)
    assert all(batch.companions == {} for batch in load(partners=True, audio=None))
    assert all(batch.companions == {} for batch in load())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sound_that_cannot_be_read_is_nobodys_partner(load: Any, holed: Levels, workers: int) -> None:
    told: dict[str, str] = {}
    loader = load(
        dataset=holed, partners=True, workers=workers, broken="replace", broken_limit=0.2, on_broken=told.__setitem__
    )
    heard = []
    for epoch in range(6):
        loader.set_epoch(epoch)
        heard += [batch.companions[PARTNER].names for batch in loader]
    assert "clip 2" not in joined(heard)
    assert "clip 7" in joined(heard)  # its sound is whole
    assert told.keys() == {"clip 2", "clip 7"}
    again = load(dataset=holed, partners=True, broken="replace", broken_limit=0.2)
    again.set_epoch(5)
    assert [batch.companions[PARTNER].names for batch in again] == heard[-3:]
    with pytest.raises(AVCoreError, match=r"nowhere/2\.wav"):
        list(load(dataset=holed, partners=True))


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
