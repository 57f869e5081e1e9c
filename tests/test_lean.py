"""Every method in half precision beside float32, and with less kept for the backward pass."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore import Edit, Prompt, PromptLayer, create_model
from avcore.config.recipes import recipes_of
from avcore.engine.compiling import compile_steps
from avcore.model import AVModel
from avcore.registry import load_registry
from avcore.states import parameter_groups
from avcore.tasks import Batch
from avcore.testing import ToyBackbones, make_batch, make_model

TOLERANCE = 0.02
"""Of a norm in float32: what half precision may be away."""
SUMS = {"norms": 0.1, "bias": 0.05}
"""The same where all that trains has gradients that are sums over all tokens, most of which cancels."""

METHODS = [spec.name for spec in load_registry().methods if "ave" in dict(recipes_of(spec))]
Found = dict[str, Tensor]


@cache
def found(
    method: str, precision: str, memory: str = "fast", device: str = "cpu", compiled: str = "off"
) -> tuple[Found, Found, Found]:
    """Pooled features, gradients and running statistics of a method on really pretrained weights, from one seed."""
    sets = ("data.dataset=demo-ave", "data.segments=4", "data.clip_seconds=4.0", f"train.memory={memory}")
    sets += ("head.name=ave.linear", f"train.compile='{compiled}'", "train.batch_size=2")
    model = create_model(method, task="ave", visual="demo_vit", audio="shared", set=sets).train()
    with torch.no_grad():
        for name, parameter in parameter_groups(model)["parts"]:
            draws = torch.Generator().manual_seed(len(name))
            parameter.add_(torch.randn(parameter.shape, generator=draws) * 0.02)
    if precision == "bf16":
        model.towers.to(torch.bfloat16)
    batch = lively(make_batch(model, 2)).to(torch.device(device))
    model.to(device)
    compile_steps(model, torch.device(device))
    torch.manual_seed(0)
    out = model(batch)
    pooled = {name: stream.pooled for name, stream in out.features.streams.items()}
    model.loss(out, batch).backward()
    gradients = {name: one.grad for name, one in parameter_groups(model)["parts"] if one.grad is not None}
    return {name: x.detach() for name, x in pooled.items()}, gradients, dict(model.part_modules.named_buffers())


def lively(batch: Batch) -> Batch:
    """With labels, and patches and changing tones in place of noise, in which all tokens are alike."""
    assert batch.frames is not None
    assert batch.waveform is not None
    draws = torch.Generator().manual_seed(2)
    coarse = torch.randint(0, 256, (*batch.frames.shape[:3], 6, 6), generator=draws).flatten(0, 1).float()
    frames = nn.functional.interpolate(coarse, batch.frames.shape[-2:], mode="bilinear")
    tones = torch.randint(100, 4000, (len(batch), 16), generator=draws).repeat_interleave(
        batch.waveform.shape[-1] // 16, 1
    )
    time = torch.arange(tones.shape[1]) / 16000
    waveform = torch.zeros_like(batch.waveform)
    waveform[..., : tones.shape[1]] = (8000 * torch.sin(2 * torch.pi * tones * time)).short()
    labels = torch.randint(0, 3, batch.frames.shape[:2], generator=draws)
    frames = frames.to(torch.uint8).view_as(batch.frames)
    return replace(batch, frames=frames, waveform=waveform, targets={"labels": labels})


def away(these: Found, those: Found) -> float:
    """The norm of the difference, of that of ``those``."""
    assert these.keys() == those.keys()
    one, other = (torch.cat([x.flatten().double() for x in many.values()]) for many in (these, those))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_near_float32(method: str) -> None:
    (pooled, gradients, _), (pooled_single, gradients_single, _) = found(method, "bf16"), found(method, "fp32")
    assert {one.dtype for one in pooled.values()} == {torch.bfloat16}
    assert {one.dtype for one in gradients.values()} == {torch.float32}
    assert away(pooled, pooled_single) < TOLERANCE
    assert away(gradients, gradients_single) < SUMS.get(method, TOLERANCE)


@pytest.mark.parametrize("memory", ["balanced", "low"])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_recomputed_changes_nothing(method: str, memory: str) -> None:
    for these, those in zip(found(method, "fp32", memory), found(method, "fp32"), strict=True):
        assert these.keys() == those.keys()
        assert all(torch.equal(these[name], those[name]) for name in those)


# ------------------------------------------------------------------------------------------------- what is recomputed


class Noisy(PromptLayer):
    """Draws, keeps running statistics, and counts its calls in a buffer that is saved."""

    calls: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("calls", torch.zeros(()))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        """Scaled by how often it was called."""
        self.calls.add_(1)
        normed = self.norm(self.map(x_MND).flatten(0, 1)).view_as(x_MND)
        return Edit(add=nn.functional.dropout(normed.tanh(), 0.5, self.training) * self.calls)


class NoisyPrompt(Prompt):
    def layer(self, block: Any) -> Noisy:
        return Noisy(block.width)


def kept_and_found(memory: str, dtype: torch.dtype | None = None) -> tuple[int, AVModel]:
    """Bytes kept for the backward pass, and the model after it."""
    model = make_model(
        ToyBackbones(), "toy_plain", prompts={"noisy": NoisyPrompt}, sets=(f"train.memory={memory}",)
    ).train()
    if dtype is not None:
        model.towers.to(dtype)
    storages: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        storages[x.untyped_storage()._cdata] = x
        return x

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        streams = model.features(make_batch(model, 3)).streams.values()
        loss = torch.stack([stream.raw_tokens.float().square().sum() for stream in streams]).sum()
    loss.backward()
    return sum(x.untyped_storage().nbytes() for x in storages.values()), model


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_draws_statistics_and_buffers_are_those_of_one_forward(dtype: torch.dtype | None) -> None:
    bytes_of = {}
    bytes_of["fast"], plain = kept_and_found("fast", dtype)
    for memory in ("balanced", "low"):
        bytes_of[memory], model = kept_and_found(memory, dtype)
        for name, buffer in plain.part_modules.named_buffers():
            assert torch.equal(model.part_modules.get_buffer(name), buffer), name
        for name, parameter in plain.part_modules.named_parameters():
            other = model.part_modules.get_parameter(name)
            assert parameter.grad is not None
            assert other.grad is not None
            assert torch.equal(other.grad, parameter.grad), name
            assert other.dtype == torch.float32
    assert bytes_of["low"] < bytes_of["balanced"] < bytes_of["fast"]


@pytest.mark.parametrize("again", [False, True])
def test_a_layer_says_whether_it_is_made_again(again: bool) -> None:
    calls: list[int] = []

    class RowsLayer(PromptLayer):
        made_again = again

        def __init__(self, width: int) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.ones(2, width))

        def attention(self, x_MND: Tensor, at: Any) -> Edit:
            calls.append(1)
            return Edit(rows=self.rows.square())

    class RowsPrompt(Prompt):
        def layer(self, block: Any) -> RowsLayer:
            return RowsLayer(block.width)

    model = make_model(ToyBackbones(), "toy_plain", prompts={"rows": RowsPrompt}, sets=("train.memory=balanced",))
    calls.clear()
    out = model.train()(batch := make_batch(model, 1))
    forwards = len(calls)
    model.loss(out, batch).backward()
    assert len(calls) == forwards * (2 if again else 1) > 0


class Recurrent(PromptLayer):
    """What keeps its parameters in a second list, where casts must stand too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.over_time = nn.GRU(width, width, batch_first=True)

    def mlp(self, x_MND: Tensor, at: Any) -> Edit:
        """What the frames before told."""
        return Edit(add=at.from_time(self.over_time(at.over_time(x_MND))[0]))


class RecurrentPrompt(Prompt):
    def layer(self, block: Any) -> Recurrent:
        return Recurrent(block.width)


@pytest.mark.parametrize("memory", ["fast", "balanced"])
def test_recurrent_layers_are_cast_and_come_back(memory: str) -> None:
    sets = (f"train.memory={memory}",)
    model = make_model(ToyBackbones(), "toy_plain", prompts={"recurrent": RecurrentPrompt}, sets=sets).train()
    model.towers.to(torch.bfloat16)
    layers = [module for module in model.part_modules.modules() if isinstance(module, nn.GRU)]
    streams = model.features(make_batch(model, 3)).streams.values()
    torch.stack([stream.raw_tokens.float().square().sum() for stream in streams]).sum().backward()
    assert all(one is two for layer in layers for one, two in zip(layer._flat_weights, layer.parameters(), strict=True))
    assert {one.dtype for layer in layers for one in layer.parameters()} == {torch.float32}
    assert all(one.grad is not None for layer in layers for one in layer.parameters())
