"""The examples' parts against naive formulas: LoRA is merged weights, VPT-shallow is rows among the tokens."""

import importlib.util
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import avcore_timm
from avcore.model import AVModel
from avcore.report.parameters import count_parameters
from avcore.testing.toys import make_batch, make_model

EXAMPLES = Path(__file__).parents[1] / "examples"
SETS = ("audio.frames=48", "audio.mel_bins=32")
WIDTH, DEPTH = 64, 6  # of test_vit


@pytest.fixture(scope="module")
def examples() -> Iterator[dict[str, ModuleType]]:
    """The examples as modules, importable by name."""
    made = {}
    for name in ("lora", "vpt_shallow"):
        spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        made[name] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made[name])
    yield made
    for module in made.values():
        del sys.modules[module.__name__]


def make(examples: dict[str, ModuleType], *listed: str, sets: tuple[str, ...] = ()) -> AVModel:
    """A model in float64 whose trained parameters are random, LoRA's B among them."""
    model = make_model(avcore_timm, "test_vit", listed=listed, others=examples, sets=(*SETS, *sets)).double()
    torch.manual_seed(0)
    model.load_trainable_state({key: torch.randn_like(value) for key, value in model.trainable_state().items()})
    return model


def embedded(model: AVModel, stream: str) -> Tensor:
    tower: Any = model.towers[stream]
    return tower.enter(tower.embed(model.front_ends(make_batch(model))[stream].double()))


def assert_tokens(model: AVModel, stream: str, expected: Tensor) -> None:
    tokens = model.features(make_batch(model)).stream(stream).tokens
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("stream", ["visual", "audio"])
@pytest.mark.parametrize("left_out", ["none", "qkv", "proj"])
def test_lora_equals_a_model_with_merged_weights(examples: dict[str, ModuleType], stream: str, left_out: str) -> None:
    chosen = () if left_out == "none" else (f"parts.lora.{left_out}=false",)
    model = make(examples, "lora", sets=("parts.lora.rank=3", *chosen))
    trunk = model.towers[stream].trunk.model  # type: ignore[union-attr]
    merged = examples["lora"].merged(trunk, model.parts[f"lora.{stream}"])
    x_MND = embedded(model, stream)
    assert_tokens(model, stream, merged.norm(merged.blocks(x_MND)))
    assert not torch.allclose(trunk.norm(trunk.blocks(x_MND)), merged.norm(merged.blocks(x_MND)))


def test_lora_acts_on_the_rows_of_other_parts_too(examples: dict[str, ModuleType]) -> None:
    model = make(examples, "lora", "vpt_shallow")
    merged = examples["lora"].merged(model.towers["visual"].trunk.model, model.parts["lora.visual"])  # type: ignore[union-attr]
    pictures = model.front_ends(make_batch(model))["visual"].double()
    rows = model.parts["vpt_shallow.visual"].rows
    assert_tokens(model, "visual", examples["vpt_shallow"].by_hand(merged, pictures, rows))


def test_lora_is_nothing_at_first_and_counts_its_ranks(examples: dict[str, ModuleType]) -> None:
    torch.manual_seed(0)
    model = make_model(avcore_timm, "test_vit", listed=["lora"], others=examples, sets=(*SETS, "parts.lora.rank=2"))
    data = make_batch(model)
    for stream in ("visual", "audio"):
        plain = model.plain(stream, data).tokens
        assert torch.equal(model.features(data).stream(stream).tokens, plain)
    # A and B of qkv and proj, in two streams.
    assert count_parameters(model).added == 2 * DEPTH * 2 * WIDTH * ((1 + 3) + (1 + 1))


@pytest.mark.parametrize("stream", ["visual", "audio"])
def test_carried_rows_equal_rows_among_the_tokens(examples: dict[str, ModuleType], stream: str) -> None:
    model = make(examples, "vpt_shallow", sets=("parts.vpt_shallow.length=4",))
    trunk: Any = model.towers[stream].trunk.model  # type: ignore[union-attr]
    rows = model.parts[f"vpt_shallow.{stream}"].rows
    assert rows.shape == (4, WIDTH)
    x_MND = embedded(model, stream)
    whole = trunk.blocks(torch.cat([x_MND, rows.expand(len(x_MND), -1, -1)], dim=1))
    assert_tokens(model, stream, trunk.norm(whole)[:, : x_MND.shape[1]])


@pytest.mark.parametrize("name", ["lora", "vpt_shallow"])
def test_the_examples_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert float(capsys.readouterr().out.split()[-1]) < 1e-10
