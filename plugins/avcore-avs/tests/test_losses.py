"""Losses on clips that count and clips that do not."""

import torch
import torch.nn.functional as F

from avcore_avs.losses import frame_weights, mask_bce, matching


def test_only_labelled_frames_of_valid_clips_are_supervised() -> None:
    labelled_BT = torch.tensor([[True, False, True], [True, True, True]])
    valid_B = torch.tensor([True, False])
    assert frame_weights(labelled_BT, valid_B, "all").tolist() == [[True, False, True], [False] * 3]
    assert frame_weights(labelled_BT, valid_B, "first").tolist() == [[True, False, False], [False] * 3]


def test_mask_bce_is_the_mean_over_the_selected_frames() -> None:
    logits_BTYX, masks_BTYX = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    weights_BT = torch.tensor([[True, False, True], [False, True, False]])
    wanted = F.binary_cross_entropy(logits_BTYX[weights_BT].sigmoid(), masks_BTYX[weights_BT])
    torch.testing.assert_close(mask_bce(logits_BTYX, masks_BTYX, weights_BT), wanted)
    assert mask_bce(logits_BTYX, masks_BTYX, torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_losses_of_bf16_logits_are_fp32() -> None:
    logits_BTYX = torch.randn(1, 2, 4, 4).bfloat16()
    assert mask_bce(logits_BTYX, torch.rand(1, 2, 4, 4), torch.ones(1, 2, dtype=torch.bool)).dtype == torch.float32
    stages = [(torch.randn(2, 3).bfloat16(), torch.randn(2, 3, 2, 2).bfloat16())]
    assert matching(logits_BTYX[0], stages, torch.ones(2, dtype=torch.bool)).dtype == torch.float32


def test_matching_sums_over_frames_that_count_and_averages_over_stages() -> None:
    torch.manual_seed(0)
    logits_MYX = torch.randn(4, 8, 8).double()
    stages = [(torch.randn(4, 5).double(), torch.randn(4, 5, side, side).double()) for side in (4, 2)]
    valid_M = torch.tensor([True, True, False, True])
    each = [
        matching(logits_MYX[[frame]], [(audio[[frame]], maps[[frame]])], torch.ones(1, dtype=torch.bool))
        for frame in (0, 1, 3)
        for audio, maps in stages
    ]
    torch.testing.assert_close(matching(logits_MYX, stages, valid_M), sum(each) / len(stages))
    assert matching(logits_MYX, [], valid_M) == 0
