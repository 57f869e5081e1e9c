"""Names of published weights."""

import pytest
import torch

from avcore.errors import AVCoreError
from avcore_avs.convert import from_reference, rename


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv4.conv2d_list.2.weight", "dilated.3.convolutions.2.weight"),
        ("tpavi_b1.align_channel.bias", "tpavi.0.align.bias"),
        ("tpavi_b3.W_z.1.running_var", "tpavi.2.out_norm.running_var"),
        ("path1.resConfUnit1.conv2.weight", "fusion.0.lateral.conv2.weight"),
        ("path4.resConfUnit2.conv1.bias", "fusion.3.refine.conv1.bias"),
        ("output_conv.4.weight", "prediction.conv3.weight"),
    ],
)
def test_decoder_names(theirs: str, ours: str) -> None:
    assert rename(theirs) == ours
    assert rename(theirs, head=True) == f"decoder.{ours}"


def test_head_names_and_shapes() -> None:
    weights = {
        "x2_linear.weight": torch.zeros(3, 2),
        "audio_linear.bias": torch.zeros(4),
        "tpavi_b1.theta.weight": torch.zeros(2, 4, 1, 1, 1),
        "path4.resConfUnit1.conv1.bias": torch.zeros(4),
    }
    made = from_reference(weights, head=True)
    assert {key: tuple(value.shape) for key, value in made.items()} == {
        "projections.1.weight": (3, 2),
        "audio_projection.bias": (4,),
        "decoder.tpavi.0.theta.weight": (2, 4),
    }


def test_a_strange_name_is_named() -> None:
    with pytest.raises(AVCoreError, match="encoder_backbone"):
        from_reference({"encoder_backbone.patch_embed1.proj.weight": torch.zeros(1)})
    with pytest.raises(AVCoreError, match="x1_linear"):
        rename("x1_linear.weight")
