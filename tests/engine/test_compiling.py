"""``train.compile``: steps of a model compiled in place, each kind once, for whole batches alone."""

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.utils import counters

import avcore_timm
from avcore.engine.compiling import compile_steps
from avcore.errors import ConfigError
from avcore.model import AVModel
from avcore.testing.toys import make_batch, make_model

CPU = torch.device("cpu")
SETS = ("audio.frames=48", "audio.mel_bins=32")


@pytest.fixture(scope="module")
def narrow() -> ModuleType:
    """`docs/benchmarks/forward.py`: every method on the real block classes at small width."""
    file = Path(__file__).parents[2] / "docs" / "benchmarks" / "forward.py"
    spec = importlib.util.spec_from_file_location("narrow", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def graphs() -> Iterator[list[fx.GraphModule]]:
    """The graphs that are made within the test, which are run as traced."""
    made: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, example_inputs: list[Tensor]) -> Callable[..., Any]:
        if len(graph.graph.nodes) > 3:  # which that of the trial has
            made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    counters.clear()
    with torch.compiler.set_stance(force_backend=keep):
        yield made
    torch._dynamo.reset()


def compile_as(model: AVModel, how: str, device: torch.device = CPU) -> str:
    train = replace(model.config.train, compile=how, batch_size=2, eval_batch_size=3)
    model.config = replace(model.config, train=train)
    return compile_steps(model, device)


def squares(model: AVModel, clips: int) -> Tensor:
    features = model(make_batch(model, clips)).features
    return torch.stack([one.tokens[..., 0].float().square().mean() for one in features.streams.values()]).sum()


METHODS = {
    "copl": ("copl", "copl", "fp32", (2, 1)),
    "dgsct": ("none", "dgsct", "bf16", (3, 2)),
    "lavish": ("none", "lavish", "bf16", (2, 1)),
    "stfp": ("stfp", "stfp", "fp32", (1, 1)),
    "stgcma": ("stgcma", "stgcma", "bf16", (1, 1)),
}
"""Prompts, fusion, precision, and the graphs that all steps share in training and in evaluation.

The first step of towers whose tokens nothing before it trains takes no gradient, and is a kind of its own."""


@pytest.mark.parametrize("method", METHODS)
def test_steps_of_a_method_share_graphs_and_are_compiled_in_the_first_batch_alone(narrow, graphs, method):
    prompts, fusion, precision, expected = METHODS[method]
    model = narrow.made(prompts, fusion, "narrow_vit", "shared", torch.float32)
    if precision == "bf16":
        model.towers.to(torch.bfloat16)
    torch.manual_seed(0)
    plain = squares(model, 2)
    compile_as(model, "blocks")
    torch.manual_seed(0)
    torch.testing.assert_close(squares(model, 2), plain, rtol=1e-3 if precision == "bf16" else 1e-5, atol=0)
    assert len(graphs) == expected[0]
    for clips in (2, 2, 1, 3):
        squares(model, clips).backward()
        assert len(graphs) == expected[0], f"a training batch of {clips} clips"
    model.eval()
    with torch.no_grad():
        squares(model, 3)
        assert len(graphs) == sum(expected)
        for clips in (3, 2, 1):
            squares(model, clips)
            assert len(graphs) == sum(expected), f"an evaluation batch of {clips} clips"
    assert not counters["graph_break"]


def test_stages_of_other_sizes_are_graphs_of_their_own(narrow, graphs):
    """Automatic dynamic shapes would make one of all stages, whose sizes, unknown then, fit nothing."""
    model = narrow.made("none", "lavish", "narrow_swinv2", "shared", torch.float32)
    compile_as(model, "blocks")
    for _ in range(2):
        squares(model, 2).backward()
        assert len(graphs) == len(model.steps) == 4
    assert not counters["graph_break"]


def test_whole_steps_are_recomputed_around_their_graphs(narrow, graphs):
    model = narrow.made("none", "lavish", "narrow_vit", "shared", torch.float32)
    trained = [parameter for part in model.parts.values() for parameter in part.parameters()]
    expected = torch.autograd.grad(squares(model, 2), trained)
    model.clips.memory = "low"
    compile_as(model, "blocks")
    for _ in range(2):
        found = torch.autograd.grad(squares(model, 2), trained)
        # Running statistics rest while a step is made again, so that it is a kind of its own then.
        assert len(graphs) == 2 * METHODS["lavish"][-1][0]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_names_stay_and_copies_are_not_compiled(graphs):
    model = make_model(avcore_timm, "test_vit", sets=SETS, on_meta_first=False)
    names = list(model.state_dict())
    compile_as(model, "reduce-overhead")
    assert list(model.state_dict()) == names
    with torch.no_grad():
        squares(model, 3)
        assert len(graphs) == 1
        torch._dynamo.reset()
        squares(copy.deepcopy(model), 3)
    assert len(graphs) == 1


@pytest.mark.parametrize("how", ["off", "auto"])
def test_auto_leaves_a_model_on_a_cpu_as_it_is(graphs, how):
    model = make_model(avcore_timm, "test_vit", sets=SETS, on_meta_first=False)
    compile_as(model, how)
    with torch.no_grad():
        squares(model, 3)
    assert not graphs
    assert not model.clips.compiled


def test_a_machine_without_a_compiler_is_told_at_once_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = make_model(avcore_timm, "test_vit", sets=SETS, on_meta_first=False)
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        with pytest.raises(ConfigError, match=r"(?s)train\.compile=blocks: .*no-such-compiler.*g\+\+.*=off") as caught:
            compile_as(model, "blocks")
        assert "\n" not in str(caught.value)
        assert not model.clips.compiled


def test_auto_goes_on_without_where_nothing_can_be_compiled(monkeypatch):
    model = make_model(avcore_timm, "test_vit", sets=SETS, on_meta_first=False)
    monkeypatch.setattr("avcore.engine.compiling._fault", lambda device: "no Triton")
    said = compile_as(model, "auto", torch.device("cuda"))
    assert said == "train.compile=auto: PyTorch cannot compile for cuda here (no Triton); the run goes on without"
    assert not model.clips.compiled
