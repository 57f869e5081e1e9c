from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from levels import Levels, assert_same, joined, numbers
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.tasks import Clip


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
    one = load(dataset=Levels(clips[:total]), batch_size=4, last=last, rank=0, world=1)
    shares = [load(dataset=Levels(clips[:total]), batch_size=4, last=last, rank=r, world=world) for r in range(world)]
    orders = []
    for epoch in range(2):
        for loader in (one, *shares):
            loader.set_epoch(epoch)
        batches = [list(loader) for loader in shares]
        assert {len(share) for share in batches} == {len(loader) for loader in shares} == {-(-total // 4)}
        counted = [[batch.samples[batch.valid].tolist() for batch in share] for share in batches]
        assert sorted(joined([joined(share) for share in counted])) == list(range(total))
        # Clip by clip in turn: the order of the epoch is the same on all.
        whole = joined([batch.samples[batch.valid].tolist() for batch in one])
        for number, step in enumerate(zip(*counted, strict=True)):
            chosen = whole[number * 4 : (number + 1) * 4]
            assert list(step) == [chosen[rank::world] for rank in range(world)]
        orders.append(whole)
        if last == "fill":
            assert {len(batch.names) for share in batches for batch in share} == {-(-min(4, total) // world)}
    assert total < 5 or orders[0] != orders[1]


def test_several_processes_leave_out_what_fills_no_batch_of_all(load: Any) -> None:
    shares = [load(last="drop", batch_size=6, rank=rank, world=3) for rank in range(3)]
    assert [loader.left_out for loader in shares] == [5, 5, 5]
    assert [[batch.valid.tolist() for batch in loader] for loader in shares] == [[[True, True]]] * 3


def test_the_batches_of_several_processes_are_those_of_one(load: Any) -> None:
    """Whatever their number; shares of a batch that they do not divide differ by one clip."""
    one = [batch.samples.tolist() for batch in load(last="drop", batch_size=5)]
    for world in (2, 3, 5):
        shares = [load(last="drop", batch_size=5, rank=rank, world=world) for rank in range(world)]
        dealt = [[batch.samples.tolist() for batch in loader] for loader in shares]
        assert [sorted(joined(step)) for step in zip(*dealt, strict=True)] == [sorted(batch) for batch in one]
        sizes = {len(share) for loader in dealt for share in loader}
        assert sizes <= {5 // world, -(-5 // world)}
    with pytest.raises(AVCoreError, match=r"train\.batch_size=2 is less than a clip for each of 3 processes"):
        load(last="drop", batch_size=2, world=3)


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
    assert lone.valid.tolist() == [True] * 11
    lone = [batch.valid.tolist() for rank in range(2) for batch in load(batch_size=25, rank=rank, world=2)]
    assert lone == [[True] * 6, [*[True] * 5, False]]


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
