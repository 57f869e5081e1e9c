"""What layers tell beside what they do: sums for losses, statistics for the log."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore.engine.optim import Rates
from avcore.engine.step import TrainStep
from avcore.errors import AVCoreError
from avcore.injection import Edit, Edits, Fusion, FusionLayer, Prompt, PromptLayer
from avcore.model import AVModel
from avcore.states import parameter_groups
from avcore.tasks import Features
from avcore.testing import ToyBackbones, make_batch, make_model

DEPTH = 4


class Counts(PromptLayer):
    """Tells at three sites."""

    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 1.0 + block.index))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(add=x_MND * 0, sums={"cost": self.weight}, statistics={"level": self.weight})

    def mlp(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(sums={"cost": self.weight}, statistics={"of clips": torch.arange(float(at.B)) * self.weight})

    def read(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(offer={"seen": x_MND.mean()}, sums={"cost": self.weight.expand(at.B)})


class Costs(Prompt):
    def __init__(self, config: Any, stream: Any) -> None:
        super().__init__(config, stream)
        self.stream = stream.name

    def layer(self, block: Any) -> PromptLayer:
        return Counts(None, block)

    def losses(self, features: Features) -> dict[str, Tensor]:
        cost_B = features.sums[f"mine.{self.stream}.cost"]
        valid_B = features.valid.to(cost_B.dtype)
        return {"cost": (cost_B * valid_B).sum() / valid_B.sum()}


class Tells(FusionLayer):
    def __init__(self, config: Any, pair: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: Any) -> Edits:
        return Edits(
            visual=Edit(sums={"cost": self.weight}, statistics={"level": self.weight}),
            audio=Edit(sums={"cost": 2 * self.weight}, statistics={"level": 3 * self.weight}),
        )


class Both(Fusion):
    def layer(self, pair: Any) -> FusionLayer:
        return Tells(None, pair)

    def losses(self, features: Features) -> dict[str, Tensor]:
        return {"cost": features.sums["joint.cost"]}


def make(**options: Any) -> AVModel:
    return make_model(ToyBackbones(), "toy_plain", prompts={"mine": Costs}, fusions={"joint": Both}, **options)


def test_sums_add_up_over_sites_and_blocks() -> None:
    model = make()
    batch = make_batch(model, 3)
    out = model(batch)
    # Three sites of four blocks, whose weights are 1 to 4; one number counts for each clip.
    assert torch.equal(out.features.sums["mine.visual.cost"], torch.full((3,), 30.0))
    assert out.features.sums["joint.cost"] == 3 * DEPTH
    losses = model.losses(out, batch)
    assert losses["mine.audio.cost"] == 30
    losses["mine.visual.cost"].backward()
    weights = [layer.weight.grad for layer in model.parts["mine.visual"].layers.values()]  # type: ignore[union-attr]
    assert weights == [3.0] * DEPTH


def test_statistics_are_means_without_a_gradient() -> None:
    model = make()
    batch = make_batch(model, 3)
    batch.valid[2] = False
    out = model(batch)
    found = model.statistics(out, batch)
    assert not any(value.requires_grad for value in (*found.values(), *out.features.statistics.values()))
    assert found["mine.visual.level"] == 2.5
    assert found["joint.level"] == 2
    # Over the clips 0 and 1 that count.
    assert found["mine.audio.of clips"] == 0.5 * 2.5


def test_a_step_of_training_has_them(tmp_path: Path) -> None:
    model = make().train()
    named = [(name, parameter) for group in parameter_groups(model).values() for name, parameter in group]
    group = {"names": [name for name, _ in named], "params": [parameter for _, parameter in named], "lr": 0.0}
    optimizer = torch.optim.SGD([group | {"name": "parts"}], lr=0.0)

    class Still(Rates):
        def __init__(self) -> None:
            self.epochs, self.steps_per_epoch = 1, 2

        def advance(self, step: int) -> None: ...

        def current(self) -> dict[str, float]:
            return {"parts": 0.0}

    batches = [make_batch(model, 3), make_batch(model, 3)]
    batches[1].valid[1:] = False
    step = TrainStep(model, optimizer, Still(), accumulate=2)(batches, step=0, epoch=0)
    scalars = step.scalars()
    assert scalars["part/mine.visual.level"] == pytest.approx(2.5)
    # Three clips, 0 to 2, then clip 0 alone.
    assert scalars["part/mine.visual.of clips"] == pytest.approx(2.5 * (1 * 3 + 0 * 1) / 4)
    assert scalars["loss/mine.visual.cost"] == pytest.approx(30)


def test_what_is_neither_one_number_nor_one_a_clip_is_refused() -> None:
    class Wrong(Counts):
        def attention(self, x_MND: Tensor, at: Any) -> Edit:
            return Edit(sums={"cost": self.weight.expand(len(x_MND))})

    model = make_model(ToyBackbones(), "toy_plain", prompts={"mine": Wrong}, on_meta_first=False)
    batch = make_batch(model)
    with pytest.raises(AVCoreError, match=r"'mine' gives 'cost' of \(4,\) among its sums: .* B = 2"):
        model.features(batch)


def test_half_precision_adds_up_in_single() -> None:
    class Small(Counts):
        def mlp(self, x_MND: Tensor, at: Any) -> Edit:
            return Edit(statistics={"level": (self.weight * 0 + 1 / 3).bfloat16()}, sums={})

    model = make_model(ToyBackbones(), "toy_plain", prompts={"mine": Small}, on_meta_first=False)
    assert model.features(make_batch(model)).statistics["mine.visual.level"].dtype == torch.float32
