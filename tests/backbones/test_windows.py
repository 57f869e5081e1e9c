"""Windows of a token grid: who stands with whom, and who must not see whom."""

import pytest
import torch

from avcore.backbones import AttentionWindows
from avcore.errors import AVCoreError

GRIDS = [
    AttentionWindows((8, 8), (4, 4)),
    AttentionWindows((8, 8), (4, 4), (2, 2)),
    AttentionWindows((6, 8), (3, 2), (1, 1)),
    AttentionWindows((6, 8), (3, 8), (1, 0)),
    AttentionWindows((5, 7), (5, 7)),
]


@pytest.mark.parametrize("windows", GRIDS, ids=str)
def test_join_is_the_way_back_from_split(windows: AttentionWindows) -> None:
    x = torch.randn(3, windows.grid[0] * windows.grid[1], 2)
    split = windows.split(x)
    assert split.shape == (3, windows.counts[0] * windows.counts[1], windows.size[0] * windows.size[1], 2)
    assert torch.equal(windows.join(split), x)


@pytest.mark.parametrize("windows", GRIDS, ids=str)
def test_windows_hold_their_tokens_and_hide_those_from_over_the_edge(windows: AttentionWindows) -> None:
    (rows, columns), (height, width), (down, right) = windows.grid, windows.size, windows.shift
    split = windows.split(torch.arange(rows * columns).reshape(1, -1, 1))[0, :, :, 0]
    mask = windows.mask(torch.zeros(()))
    for window in range(split.shape[0]):
        top, left = window // windows.counts[1] * height, window % windows.counts[1] * width
        places = [(top + y + down, left + x + right) for y in range(height) for x in range(width)]
        assert split[window].tolist() == [y % rows * columns + x % columns for y, x in places]
        if mask is None:
            continue
        wrapped = [(y >= rows, x >= columns) for y, x in places]
        for query, of_query in enumerate(wrapped):
            expected = [0.0 if of_query == of_key else -100.0 for of_key in wrapped]
            assert mask[window, query].tolist() == expected
    assert (mask is None) == (windows.shift == (0, 0))


def test_one_window_is_the_grid_itself() -> None:
    windows = AttentionWindows((5, 7), (5, 7))
    x = torch.randn(2, 35, 3)
    assert windows.split(x).data_ptr() == x.data_ptr()
    assert windows.join(windows.split(x)).data_ptr() == x.data_ptr()


def test_tokens_off_the_grid_are_refused() -> None:
    with pytest.raises(AVCoreError, match=r"10 tokens .* 8 x 8.* windowed=False"):
        GRIDS[0].split(torch.randn(1, 10, 2))


def test_windows_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(AVCoreError, match="8 x 9 tokens does not divide into windows of 4 x 4"):
        AttentionWindows((8, 9), (4, 4))
