"""Which blocks run together."""

import pytest

from avcore.errors import AVCoreError
from avcore.injection import PlanEntry, make_plan
from avcore.specs import StageLayout, StreamLayout


def layout(*depths: int) -> StreamLayout:
    stages = tuple(StageLayout(width=8, heads=1, depth=depth, grid=(2, 2)) for depth in depths)
    return StreamLayout(stages=stages, segments=2, taps=(0,))


def pairs(plan: tuple[PlanEntry, ...]) -> list[tuple[int, int]]:
    return [(entry.visual, entry.audio) for entry in plan if entry.visual is not None and entry.audio is not None]


def test_equal_depths_pair_one_to_one() -> None:
    assert pairs(make_plan(layout(4), layout(4))) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_twelve_pairs_of_swin_and_htsat() -> None:
    plan = make_plan(layout(2, 2, 18, 2), layout(2, 2, 6, 2))
    assert len(plan) == 24
    # The 12 pairs of DG-SCT.
    assert [visual for visual, _ in pairs(plan)] == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 22, 23]
    assert [audio for _, audio in pairs(plan)] == list(range(12))


def test_the_deeper_stream_may_be_the_audio() -> None:
    plan = make_plan(layout(2), layout(4))
    assert [(entry.visual, entry.audio) for entry in plan] == [(None, 0), (0, 1), (None, 2), (1, 3)]


def test_one_stream_runs_alone() -> None:
    assert make_plan(None, layout(2)) == (PlanEntry(visual=None, audio=0), PlanEntry(visual=None, audio=1))


def test_unpairable_streams_are_refused() -> None:
    with pytest.raises(AVCoreError, match="No rule pairs 3 visual blocks in 1 stages with 4 audio blocks in 2 stages"):
        make_plan(layout(3), layout(2, 2))
    with pytest.raises(AVCoreError, match="Both streams are off"):
        make_plan(None, None)
