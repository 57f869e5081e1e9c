"""A pair of blocks with DG-SCT's bottlenecks compiles to one graph and computes the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from avcore.model import AVModel
from avcore.testing.graphs import capture, tokens_for

SEGMENTATION = ("align=resize", "order=avs", "batch_norm=false", "audio_gate=false", "latents=zeros", "pool=audio")
SERIAL = ("placement=serial", "pool=none", "temporal_gate=true")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("settings", [(), SEGMENTATION, SERIAL], ids=["ave", "avs", "serial"])
def test_the_last_pair_compiles_with_equal_results_and_gradients(
    make: Callable[..., AVModel], settings: tuple[str, ...], training: bool
) -> None:
    parts = [f"parts.dgsct.{setting}" for setting in settings]
    if settings is SERIAL:
        parts.append("plan.atomic_audio=false")
    model = make(*parts, moved=True).train(training)
    step = len(model.steps) - 1
    own = list(model.parts["dgsct"].layers[str(model.plan[step].visual)].parameters())
    x = tokens_for(model, step)
    made, expected = capture(model.steps[step], x).output, model.steps[step](dict(x), {})

    def gradients(output: tuple[dict[str, Tensor], object, list[tuple[str, str, Tensor]]]) -> tuple[Tensor, ...]:
        tensors = [*output[0].values(), *(tensor for *_, tensor in output[2])]
        return torch.autograd.grad(sum(tensor.square().mean() for tensor in tensors), own)

    assert [told[:2] for told in made[2]] == [told[:2] for told in expected[2]]
    for stream in x:
        torch.testing.assert_close(made[0][stream], expected[0][stream])
    for found, wanted in zip(gradients(made), gradients(expected), strict=True):
        torch.testing.assert_close(found, wanted)
