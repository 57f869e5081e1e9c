"""A pair of blocks with LAVISH's bottlenecks compiles to one graph and computes the same."""

import pytest
import torch
from torch import Tensor

import avcore_timm
from avcore.model import AVModel
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_model
from avcore_lavish.fusion import LavishLayer
from avcore_lavish.settings import LavishSettings

SMALL = ("audio.frames=48", "audio.mel_bins=32")
SEGMENTATION = ("batch_norm=false", "audio_gate=false", "latents=zeros", "order=avs")


def make(*settings: str, bottlenecks: bool = True, unequal: bool = False) -> AVModel:
    own_sound = ("audio.backbone=test_vit3", "audio.weights=random") if unequal else ()
    model = make_model(
        avcore_timm,
        "test_vit",
        fusions={"lavish": LavishLayer} if bottlenecks else {},
        fields={"lavish": {"config": LavishSettings, "as_own": ("width",)}},
        sets=(*SMALL, *own_sound, *(f"parts.lavish.{setting}" for setting in settings)),
        on_meta_first=False,
    )
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.part_modules.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=draws) * 0.5)
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("settings", "unequal"),
    [((), False), ((), True), (SEGMENTATION, False), (("groups=1", "before_norm=false", "post_norm=false"), False)],
)
def test_a_pair_compiles_with_equal_results_and_gradients(
    settings: tuple[str, ...], unequal: bool, training: bool
) -> None:
    model = make(*settings, unequal=unequal).train(training).double()
    own = [parameter for part in model.parts.values() for parameter in part.layers["0"].parameters()]
    x = {stream: tokens.double() for stream, tokens in tokens_for(model).items()}
    made, expected = capture(model.steps[0], x).output[0], model.steps[0](dict(x), {})[0]

    def gradients(streams: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sum(tokens.square().mean() for tokens in streams.values()), own)

    for stream in x:
        torch.testing.assert_close(made[stream], expected[stream])
    for found, wanted in zip(gradients(made), gradients(expected), strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_bottlenecks_alone_add_nodes() -> None:
    with_bottlenecks, bare = make(), make(bottlenecks=False)
    nodes = [capture(model.steps[0], tokens_for(model)).nodes for model in (with_bottlenecks, bare)]
    # Four bottlenecks: step 1 and 2, norms, gate; nothing is added for what settings leave out.
    assert nodes[0] > nodes[1]
    fewer = make("batch_norm=false", "before_norm=false", "post_norm=false", "audio_gate=false")
    assert nodes[1] < capture(fewer.steps[0], tokens_for(fewer)).nodes < nodes[0]
