"""Which blocks run together."""

from itertools import pairwise
from typing import Any

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


def test_different_numbers_of_stages_pair_as_if_each_were_one_stage() -> None:
    assert pairs(make_plan(layout(6), layout(1, 2))) == [(1, 0), (3, 1), (5, 2)]
    assert pairs(make_plan(layout(2, 2, 6, 2), layout(12))) == [(block, block) for block in range(12)]


@pytest.mark.parametrize(("long", "short"), [(5, 3), (7, 2), (18, 5), (9, 9), (4, 1)])
def test_every_block_of_the_shallower_stream_has_a_partner_of_its_own(long: int, short: int) -> None:
    plan = make_plan(layout(long, 1), layout(short, 1))
    together = pairs(plan)
    assert [audio for _, audio in together] == list(range(short + 1))
    assert [entry.visual for entry in plan] == list(range(long + 1))
    shares = [second - first for (first, _), (second, _) in pairwise([(-1, -1), *together[:-1]])]
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("pairing", "visual", "audio", "expected"),
    [
        ("last", (3,), (3,), [(0, 0), (1, 1), (2, 2)]),
        ("last", (5,), (2,), [(3, 0), (4, 1)]),
        ("last", (2,), (4,), [(0, 2), (1, 3)]),
        ("last", (1, 4), (2, 2), [(0, 1), (3, 2), (4, 3)]),
        ("odd", (4,), (4,), [(1, 1), (3, 3)]),
        # CoLA (ICLR 2026): sound's block i // 2 at the odd visual blocks i.
        ("odd", (8,), (4,), [(1, 0), (3, 1), (5, 2), (7, 3)]),
        ("odd", (2,), (6,), [(1, 5)]),
        ("odd", (2, 2, 18, 2), (2, 2, 6, 2), [(1, 1), (3, 3), (9, 5), (15, 7), (21, 9), (23, 11)]),
        (((0, 1), (3, 2)), (4,), (4,), [(0, 1), (3, 2)]),
        ([(2, 0)], (3,), (1,), [(2, 0)]),
    ],
)
def test_a_pairing_says_which_blocks_run_together_and_all_run_once(
    pairing: Any, visual: tuple[int, ...], audio: tuple[int, ...], expected: list[tuple[int, int]]
) -> None:
    plan = make_plan(layout(*visual), layout(*audio), pairing)
    assert pairs(plan) == expected
    assert [entry.visual for entry in plan if entry.visual is not None] == list(range(sum(visual)))
    assert [entry.audio for entry in plan if entry.audio is not None] == list(range(sum(audio)))


@pytest.mark.parametrize(
    ("pairing", "message"),
    [
        ([(0, 3)], r"names the audio block 3 in \[0, 3\], but that stream has 3 blocks, numbered from 0 to 2"),
        ([(-1, 0)], r"names the visual block -1"),
        ([(1, 0), (1, 1)], r"names \[1, 1\] after \[1, 0\]: each pair takes a later block of both streams"),
        ([(1, 1), (2, 0)], r"names \[2, 0\] after \[1, 1\]"),
        ([], r"plan.pairing=\[\] pairs none of 4 visual and 3 audio blocks"),
    ],
)
def test_a_pairing_that_cannot_be_is_refused(pairing: Any, message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        make_plan(layout(4), layout(3), pairing)


def test_a_pairing_without_pairs_is_refused_and_means_nothing_to_one_stream() -> None:
    with pytest.raises(AVCoreError, match=r"plan\.pairing=odd pairs none of 1 visual and 1 audio blocks"):
        make_plan(layout(1), layout(1), "odd")
    assert make_plan(layout(2), None, "odd") == make_plan(layout(2), None)


def test_no_stream_at_all_is_refused() -> None:
    with pytest.raises(AVCoreError, match="Both streams are off"):
        make_plan(None, None)
