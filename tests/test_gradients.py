"""Assembly follows the losses that the head computes: what none of them depends on stays as it is, and is named."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_rows import Rows

from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.hookspecs import hookimpl
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import HeadSpec, StreamLayout
from avcore.states import parameter_groups
from avcore.tasks import Batch, Features, Head, Input, Progress, Task
from avcore.testing import ToyBackbones, make_batch
from avcore.testing.toys import ToyPlugin, at_hand

CLASSES = 3


class Deaf(Head):
    """Pictures to a class; sound enters its loss from the third epoch on, where ``late`` says so."""

    late = False

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.map = nn.Linear(layouts["visual"].width, CLASSES)
        self.idle = nn.Linear(2, 2)

    @property
    def targets(self) -> Mapping[str, Input]:
        return {"class": Input(shape=(), dtype="int64")}

    def forward(self, features: Features) -> dict[str, Tensor]:
        heard = features.stream("audio").pooled.mean(1)
        return {"logits": self.map(features.stream("visual").pooled.mean(1)), "heard": heard}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = {"class": nn.functional.cross_entropy(output["logits"], batch.targets["class"])}
        if self.late and progress.epoch >= 2:
            terms["late"] = output["heard"].square().mean()
        return terms

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"classes": output["logits"].argmax(-1)}


class Late(Deaf):
    late = True


class Whole(Deaf):
    """Its first loss reads everything."""

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        everything = output["heard"].square().mean() + sum(one.square().sum() for one in self.idle.parameters())
        return {**super().loss(output, batch, progress), "everything": everything}


class Undeclared(Deaf):
    @property
    def targets(self) -> Mapping[str, Input]:
        return {}


class Asking(Deaf):
    def forward(self, features: Features) -> dict[str, Tensor]:
        made = super().forward(features)
        assert made["heard"].sum().item() < 1e9
        return made


class Companions(Deaf):
    """Sound is in its loss as that of the companion."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.companions = {"negative": "parts"}

    def forward(self, features: Features) -> dict[str, Tensor]:
        other = features.companions["negative"].stream("audio").pooled.mean(1)
        return {**super().forward(features), "other": other}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        near_B = (batch.companions["negative"].targets["class"] == batch.targets["class"]).float()
        apart = (output["other"].square().mean(1) * near_B).mean()
        return {**super().loss(output, batch, progress), "apart": apart}


class Heads:
    @hookimpl
    def avcore_heads(self) -> list[HeadSpec]:
        kinds = {
            "deaf": Deaf,
            "late": Late,
            "whole": Whole,
            "undeclared": Undeclared,
            "asking": Asking,
            "companions": Companions,
        }
        return [at_hand(HeadSpec, name=name, thing=thing) for name, thing in kinds.items()]


def make(head: str, *sets: str) -> AVModel:
    registry = Registry.from_modules(
        {"backbones": ToyBackbones(), "toys": ToyPlugin(prompts={"rows": Rows}), "heads": Heads()}
    )
    resolved = resolve_config(
        registry,
        task="toy",
        prompts="rows",
        fusions="none",
        visual="toy_plain",
        options={"data.dataset": "toy-data", "head.name": head},
        sets=sets,
        need_data=False,
    )
    return assemble(resolved.config, registry)


def trained(model: AVModel) -> set[str]:
    return {name for group in parameter_groups(model).values() for name, _ in group}


def test_what_no_loss_depends_on_stays_as_it_is_and_is_named() -> None:
    model = make("deaf")
    names = trained(model)
    assert any(name.startswith("rows.visual.") for name in names)
    assert not any(name.startswith(("rows.audio.", "head.idle.")) for name in names)
    count = sum(one.numel() for one in model.parts["rows.audio"].parameters()) + 6
    (notice,) = [notice for notice in model.notices if "stay as they are" in notice]
    assert notice.startswith(f"{count:,} parameters stay as they are, because no loss of head 'deaf' depends on them: ")
    assert "rows.audio.layers.0.rows" in notice


def test_what_trains_gets_a_gradient_in_every_step_as_many_processes_need_it() -> None:
    model = make("deaf").train()
    batch = make_batch(model)
    batch.targets["class"] = torch.zeros(2, dtype=torch.int64)
    model.loss(model(batch), batch).backward()
    assert all(one.grad is not None for group in parameter_groups(model).values() for _, one in group)
    assert all(one.grad is None for one in model.parts["rows.audio"].parameters())


def test_a_loss_that_begins_later_counts() -> None:
    assert any(name.startswith("rows.audio.") for name in trained(make("late", "train.epochs=3")))
    assert not any(name.startswith("rows.audio.") for name in trained(make("late", "train.epochs=2")))


def test_a_run_without_epochs_has_what_it_would_train() -> None:
    assert trained(make("deaf", "train.epochs=0")) == trained(make("deaf"))


def test_losses_are_followed_no_further_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    loss = Whole.loss

    def counted(self: Head, output: Any, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        seen.append(progress.epoch)
        return loss(self, output, batch, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(Whole, "loss", counted)
    make("whole", "train.epochs=500")
    assert seen == [0]


def test_a_loss_on_companions_counts() -> None:
    assert any(name.startswith("rows.audio.") for name in trained(make("companions")))


def test_a_head_that_declares_no_targets_is_followed_from_its_outputs() -> None:
    names = trained(make("undeclared"))
    assert any(name.startswith("rows.audio.") for name in names)
    assert not any(name.startswith("head.idle.") for name in names)


@pytest.mark.parametrize("head", ["asking"])
def test_a_head_that_does_not_run_on_shapes_trains_whole_with_a_notice(head: str) -> None:
    model = make(head)
    assert any(name.startswith("rows.audio.") for name in trained(model))
    assert any("Head 'asking' does not run on shapes alone" in notice for notice in model.notices)
