"""Checkpoints of an imaginary reference implementation become adapters (`avcore.runs.convert`)."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import avcore
import avcore_timm
from avcore.cli import main
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.injection import BlockView, Edit, Prompt, PromptLayer
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.runs.convert import ConversionError
from avcore.specs import STREAMS, BlockLayout, MethodSpec
from avcore.states import load_trainable_state, trainable_state
from avcore.testing.toys import ToyPlugin, make_batch

SETS = ("audio.frames=48", "audio.mel_bins=32", "audio.patch=one_channel")


class RowLayer(PromptLayer):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width))

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(rows=self.rows)


class TrainsNorm(Prompt):
    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        return dict.fromkeys(STREAMS, ("norm",))


class Plugin(ToyPlugin):
    @hookimpl
    def avcore_methods(self) -> list[MethodSpec]:
        converter = "toy_official:convert"
        return [
            MethodSpec(name="rowed", prompts=("rows",), converter=converter),
            MethodSpec(name="normed", prompts=("rows", "base"), converter=converter),
            MethodSpec(name="mute", prompts=("rows",)),
        ]


def convert(state: Mapping[str, Tensor], model: AVModel) -> dict[str, Tensor]:
    """``prompt.3.audio``, ``ln.weight``, ``fc.bias``, ``vit.blocks...``, ``kernel``; ``idle`` is never used."""
    found = {}
    for key, tensor in state.items():
        kind, _, rest = key.partition(".")
        if kind == "idle":
            continue
        if kind == "prompt":
            index, stream = rest.split(".")
            found[f"rows.{stream}.layers.{index}.rows"] = tensor
        elif key == "kernel":
            found["audio.kernel"] = tensor
        else:
            place = {"ln": "base.visual.backbone.visual.norm", "fc": "head.map", "vit": "visual", "ear": "audio"}
            found[f"{place[kind]}.{rest}" if kind in place else f"unknown.{key}"] = tensor
    return found


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The installed plugins are timm's backbones and this module's."""
    module = ModuleType("toy_official")
    module.convert = convert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_official", module)
    plugin = Plugin(prompts={"rows": RowLayer, "base": TrainsNorm})
    registry = Registry.from_modules({"avcore-timm": avcore_timm, "toys": plugin})
    for where in ("avcore.runs.convert", "avcore.assemble"):
        monkeypatch.setattr(f"{where}.load_registry", lambda: registry)
    return


def create(method: str, *sets: str, weights: str = "random", seed: int = 0) -> AVModel:
    fixed = (*SETS, f"visual.weights={json.dumps(weights)}", "data.dataset=toy-data", f"seed={seed}")
    return avcore.create_model(method, task="toy", visual="test_vit", set=[*fixed, *sets]).eval()


def official(model: AVModel, *, frozen: bool = True) -> dict[str, Tensor]:
    """The state of a model as the reference would have saved it."""
    made = {}
    for key, tensor in trainable_state(model).items():
        if key.startswith("rows."):
            _, stream, _, index, _ = key.split(".")
            made[f"prompt.{index}.{stream}"] = tensor
        else:
            made[key.replace("base.visual.backbone.visual.norm", "ln").replace("head.map", "fc")] = tensor
    if frozen:
        trunk = model.towers["visual"].weights()  # type: ignore[operator]
        trained_norm = ("norm.weight", "norm.bias") if "ln.weight" in made else ()
        made |= {f"vit.{key}": value.detach() for key, value in trunk.items() if key not in trained_norm}
        made["kernel"] = model.towers["audio"].kernel  # type: ignore[assignment]
    return {key: value.clone() for key, value in made.items()} | {"idle.table": torch.zeros(3)}


def trained(method: str) -> AVModel:
    """A model whose trained tensors are random."""
    model = create(method)
    torch.manual_seed(1)
    load_trainable_state(model, {key: torch.randn_like(value) for key, value in trainable_state(model).items()})
    return model


def backbone_file(model: AVModel, folder: Path) -> Path:
    """The frozen weights of a model as a file that somebody has."""
    weights = model.towers["visual"].weights()  # type: ignore[operator]
    save_file({key: value.detach() for key, value in weights.items()}, folder / "vit.safetensors")
    return folder / "vit.safetensors"


Convert = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Convert:
    """``run(method, state)`` saves the state and converts it to ``tmp_path / "out"``."""

    def call(method: str, state: Any, *sets: str, name: str = "best.pth") -> Any:
        torch.save(state, tmp_path / name)
        return avcore.convert_checkpoint(
            method,
            tmp_path / name,
            task="toy",
            out=tmp_path / "out",
            visual="test_vit",
            set=[*SETS, "data.dataset=toy-data", *sets],
        )

    return call


def assert_same(model: AVModel, other: AVModel) -> None:
    data = make_batch(model)
    assert torch.equal(model(data)["logits"], other(data)["logits"])


@pytest.mark.parametrize("method", ["rowed", "normed"])
def test_a_checkpoint_with_its_backbone_is_usable_bit_for_bit(method: str, run: Convert, tmp_path: Path) -> None:
    by_hand = trained(method)
    made = run(method, official(by_hand))
    assert sorted(path.name for path in made.directory.iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
        "backbone.safetensors",
    ]
    assert made.frozen == {"visual": "the file best.pth"}
    assert made.tensors == len(trainable_state(by_hand))
    again = create(method, weights=str(tmp_path / "out" / "backbone.safetensors"), seed=7)
    avcore.load_adapter(tmp_path / "out", again)
    assert_same(by_hand, again)
    description = json.loads((tmp_path / "out" / "adapter.json").read_text())
    assert description["frozen_digest"] == again.backbone_digest
    assert description["converted"]["from"] == "best.pth"
    assert description["converted"]["frozen"] == made.frozen


def test_frozen_weights_that_a_part_trains_are_its_trained_ones(run: Convert, tmp_path: Path) -> None:
    by_hand = trained("normed")
    run("normed", official(by_hand))
    written = load_file(tmp_path / "out" / "backbone.safetensors")
    own = by_hand.parts["base.visual"].backbone["visual"]["norm"]
    assert torch.equal(written["norm.weight"], own.weight)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    ],
)
def test_wrappers_are_taken_off(wrap: Any, run: Convert) -> None:
    assert run("rowed", wrap(official(trained("rowed")))).tensors == 14


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    save_file(official(trained("rowed")), tmp_path / "best.safetensors")
    made = avcore.convert_checkpoint(
        "rowed", tmp_path / "best.safetensors", task="toy", out=tmp_path / "out", visual="test_vit",
        set=[*SETS, "data.dataset=toy-data"],
    )  # fmt: skip
    assert made.weights["visual"].is_file()


def test_weights_that_the_user_names_must_be_those_of_the_file(run: Convert, tmp_path: Path) -> None:
    by_hand = trained("normed")
    state = official(by_hand)
    weights = backbone_file(by_hand, tmp_path)
    named = f"visual.weights={weights}"
    made = run("normed", state, named)
    assert made.frozen == {"visual": named}
    assert made.weights == {}
    assert not (tmp_path / "out" / "backbone.safetensors").exists()
    again = create("normed", weights=str(weights), seed=7)
    avcore.load_adapter(tmp_path / "out", again)
    assert_same(by_hand, again)

    state["vit.blocks.2.attn.qkv.weight"][0, 0] += 1e-3
    with pytest.raises(ConversionError) as caught:
        run("normed", state, named)
    assert caught.value.faults == ("different frozen weights: visual.blocks.2.attn.qkv.weight",)
    assert "Leave out --set visual.weights" in caught.value.summary


def test_a_checkpoint_without_its_backbone_needs_its_weights(run: Convert, tmp_path: Path) -> None:
    by_hand = trained("rowed")
    state = official(by_hand, frozen=False)
    with pytest.raises(
        ConversionError, match=r"does not hold the frozen visual backbone, \d+ tensors: .*--set visual.weights=PATH"
    ):
        run("rowed", state)
    assert not (tmp_path / "out").exists()
    weights = backbone_file(by_hand, tmp_path)
    run("rowed", state, f"visual.weights={weights}")
    again = create("rowed", weights=str(weights), seed=7)
    avcore.load_adapter(tmp_path / "out", again)
    assert_same(by_hand, again)


def test_what_the_file_lacks_of_the_backbone_is_named(run: Convert) -> None:
    state = official(trained("rowed"))
    del state["vit.pos_embed"]
    with pytest.raises(ConversionError) as caught:
        run("rowed", state)
    assert caught.value.faults == ("missing of the frozen visual backbone: visual.pos_embed",)


def test_the_trained_twin_does_not_fill_a_norm_that_is_still_used(run: Convert, monkeypatch: Any) -> None:
    """Where only the visual stream trains the shared norm, the other one uses the frozen norm."""
    monkeypatch.setattr(TrainsNorm, "backbone_parts", lambda part: {"visual": ("norm",)})
    state = official(trained("normed"))
    with pytest.raises(ConversionError) as caught:
        run("normed", state)
    assert caught.value.faults == (
        "missing of the frozen visual backbone: visual.norm.weight",
        "missing of the frozen visual backbone: visual.norm.bias",
    )


def test_what_is_computed_from_the_weights_is_compared(run: Convert) -> None:
    state = official(trained("rowed"))
    state["kernel"] += 0.1
    with pytest.raises(ConversionError) as caught:
        run("rowed", state)
    assert caught.value.faults == ("different frozen weights: audio.kernel",)


def spoilt() -> dict[str, Tensor]:
    state = official(trained("rowed"))
    state["prompt.7.audio"] = torch.zeros(2, 64)
    state["strange.table"] = torch.zeros(3)
    del state["fc.bias"], state["prompt.0.visual"]
    state["prompt.1.audio"] = torch.zeros(5, 64)
    state["vit.norm.bias"] = torch.zeros(65)
    return state


FAULTS = [
    "unknown: rows.audio.layers.7.rows",
    "unknown: strange.table",
    "missing: rows.visual.layers.0.rows",
    "missing: head.map.bias",
    "misshapen: rows.audio.layers.1.rows is (5, 64) instead of (2, 64)",
    "misshapen: visual.norm.bias is (65,) instead of (64,)",
]


def test_all_keys_that_do_not_fit_are_listed_in_groups(run: Convert, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="2 unknown, 2 missing, 2 misshapen") as caught:
        run("rowed", spoilt())
    assert list(caught.value.faults) == FAULTS
    assert not (tmp_path / "out").exists()


def test_a_tensor_of_both_streams_of_one_backbone_may_not_differ(run: Convert) -> None:
    state = official(trained("rowed"))
    state["ear.norm.bias"] = state["vit.norm.bias"].clone()
    assert run("rowed", state).tensors == 14
    state["ear.norm.bias"] = state["ear.norm.bias"] + 1
    with pytest.raises(ConversionError) as caught:
        run("rowed", state)
    assert caught.value.faults == (
        "contradictory: audio.norm.bias is not that of the other stream, which shares the backbone",
    )


def test_weights_are_compared_in_the_lower_precision(run: Convert, tmp_path: Path) -> None:
    by_hand = trained("rowed")
    weights = backbone_file(by_hand, tmp_path)
    run("rowed", {key: value.double() for key, value in official(by_hand).items()})
    state = {key: value.half() for key, value in official(by_hand).items() if key != "kernel"}
    run("rowed", state, f"visual.weights={weights}")
    state["vit.norm.bias"] += 0.5
    with pytest.raises(ConversionError, match="different frozen weights"):
        run("rowed", state, f"visual.weights={weights}")


def test_an_adapter_is_replaced_whole_and_nothing_else_is(run: Convert, tmp_path: Path) -> None:
    by_hand = trained("rowed")
    run("rowed", official(by_hand))
    own = tmp_path / "out" / "backbone.safetensors"
    run("rowed", official(by_hand, frozen=False), f"visual.weights={own}")
    assert own.exists()  # the adapter runs on it
    run("rowed", official(by_hand, frozen=False), f"visual.weights={backbone_file(by_hand, tmp_path)}")
    assert not (tmp_path / "out" / "backbone.safetensors").exists()
    (tmp_path / "out" / "adapter.json").unlink()
    with pytest.raises(AVCoreError, match="something else than an adapter"):
        run("rowed", official(by_hand))


def test_a_method_without_converter_is_refused_with_the_choices(run: Convert) -> None:
    with pytest.raises(AVCoreError, match=r"'mute' has no converter\. Methods that have one: normed, rowed"):
        run("mute", {"a": torch.zeros(1)})


# --------------------------------------------------------------------------------------------------------------------
# The command


def invoke(tmp_path: Path, *options: str) -> Result:
    sets = [argument for text in (*SETS, "data.dataset=toy-data") for argument in ("--set", text)]
    fixed = ["--from", "rowed", str(tmp_path / "best.pth"), "--task", "toy", "-o", str(tmp_path / "out")]
    return CliRunner().invoke(main, ["convert", *fixed, "--visual", "test_vit", *sets, *options])


def test_the_command_says_where_frozen_weights_came_from(tmp_path: Path) -> None:
    torch.save(official(trained("rowed")), tmp_path / "best.pth")
    done = invoke(tmp_path)
    assert done.exit_code == 0, done.output
    assert "14 tensors" in done.stdout
    assert "frozen weights of the visual backbone: from the file best.pth" in done.stdout
    assert f"--set visual.weights={tmp_path / 'out' / 'backbone.safetensors'}" in done.stdout
    report = json.loads(invoke(tmp_path, "--json").stdout)
    assert report["weights"] == {"visual": str(tmp_path / "out" / "backbone.safetensors")}
    assert (report["source"], report["task"], report["tensors"]) == ("rowed", "toy", 14)


def test_the_command_lists_what_does_not_fit_one_line_each(tmp_path: Path) -> None:
    torch.save(spoilt(), tmp_path / "best.pth")
    done = invoke(tmp_path)
    assert done.exit_code == 2
    *faults, summary = done.stderr.splitlines()
    assert faults == FAULTS
    assert summary.startswith("avcore: error: ")
    assert "does not fit rowed on toy: 2 unknown, 2 missing, 2 misshapen" in summary


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"state_dict": {"a": evil}}], ids=["bare", "inside"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(Malicious(tmp_path / "trace")), tmp_path / "best.pth")
    done = invoke(tmp_path)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "holds more than tensors (posix.mkdir). Nothing in it was executed" in line
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()
    torch.load(tmp_path / "best.pth", weights_only=False)
    assert (tmp_path / "trace").exists()  # it would have


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "is no checkpoint"),
        (b"", "is no checkpoint"),
        (None, "does not exist"),
        ([1, 2], "no mapping of names to tensors"),
        ({"a": torch.zeros(1), "b": 3}, "'b' holds int"),
        (
            {"state_dict": {"a": torch.zeros(1)}, "args": argparse.Namespace()},
            "more than tensors (argparse.Namespace)",
        ),
    ],
    ids=["text", "empty", "absent", "list", "number", "objects"],
)
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / "best.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "best.pth")
    done = invoke(tmp_path)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert message in line
