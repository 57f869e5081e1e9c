"""Published models, whole and narrow, on a device: the golden cases of which the tests of each method build a model."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore.model import AVModel
from avcore.states import parameter_groups
from avcore.tasks import Batch
from avcore.testing.golden import load_case

from .files import module_of

SINGLE = 5e-3
"""How far float32 may be from a golden case, of its largest value: five times what it is on a CPU, since devices add up
in other orders. What is wrong shows in float64, whose bound is that of the tests."""

Tensors = dict[str, Tensor]
Found = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model of a golden case in float64, on the CPU, and what it is held against.

    Attributes:
        model: in the case's mode.
        images: what its streams take in place of what their front ends make.
        read: a model's output -> tensors by the names of ``outputs``.
        outputs: of the published model.
        cotangents: by the names of ``outputs``; the gradients are of the sum of their products.
        gradients: of what trains, under avcore's names.
        clips: of the batch.
    """

    model: AVModel
    images: Tensors
    read: Callable[[Mapping[str, Any]], Tensors]
    outputs: Tensors
    cotangents: Tensors
    gradients: Tensors
    clips: int


def under(tensors: Tensors, prefix: str) -> Tensors:
    """Those of a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def frames_of_all(output: Mapping[str, Any]) -> Tensors:
    """Logits of each segment."""
    return {"logits": output["logits"].flatten(0, 1)}


def lavish(tensors: Tensors, meta: Found, folder: Path) -> Case:
    """On a ViT or a Swin-V2 for both streams."""
    tests = module_of("plugins/avcore-lavish/tests/test_golden.py")
    model = tests.build(meta["config"], under(tensors, "weights/"), folder)
    return Case(
        model=model.train(meta["mode"] == "train"),
        images={"visual": tensors["in/image"].flatten(0, 1), "audio": tensors["in/audio"].flatten(0, 1)},
        read=frames_of_all,
        outputs={"logits": tensors["out/logits"]},
        cotangents=under(tensors, "in/cotangent_"),
        gradients=tests.convert(under(tensors, "grad/"), model),
        clips=0,
    )


def dgsct(tensors: Tensors, meta: Found, folder: Path) -> Case:
    """On a Swin-V2 and an HTS-AT, with its own head."""
    tests = module_of("plugins/avcore-dgsct/tests/test_whole_model.py")
    model, shapes = tests.build(meta["config"], under(tensors, "weights/"), folder)
    waves = tensors["in/wave"].double()
    cotangents = under(tensors, "in/cotangent_")
    return Case(
        model=model,
        images={
            "visual": tensors["in/image"].flatten(0, 1),
            "audio": model.streams["audio"].front_end(waves.flatten(1)),
        },
        read=lambda output: {
            "is_event": output["is_event"].T[..., None],
            "gate": output["gate"].T[..., None],
            "event": output["event"],
            "av_score": output["score"],
        },
        outputs={name: tensors[f"out/{name}"] for name in cotangents},
        cotangents=cotangents,
        gradients=tests.convert(under(tensors, "grad/"), shapes),
        clips=len(waves),
    )


def stgcma(tensors: Tensors, meta: Found, folder: Path) -> Case:
    """On a CLIP for both streams."""
    tests = module_of("plugins/avcore-stgcma/tests/test_golden.py")
    fixtures = module_of("plugins/avcore-stgcma/tests/conftest.py")
    model = tests.model_of(meta["config"], fixtures.make.__wrapped__(fixtures.registry_with.__wrapped__()))
    tests.load(model, under(tensors, "weights/"))
    return Case(
        model=model,
        images={
            "visual": tensors["in/video"].transpose(1, 2).flatten(0, 1),
            "audio": tensors["in/audio"].flatten(0, 1),
        },
        read=frames_of_all,
        outputs={"logits": tensors["out/logits"]},
        cotangents=under(tensors, "in/cotangent_"),
        gradients=tests.convert(under(tensors, "grad/"), model),
        clips=meta["config"]["B"],
    )


CASES: dict[str, Callable[[Tensors, Found, Path], Case]] = {
    "c5_lavish_ave_vit": lavish,
    "c5_lavish_ave_swin": lavish,
    "c4_dgsct_ave_model": dgsct,
    "c6_stgcma_clip_ave": stgcma,
}


def golden(device: str) -> Found:
    """Outputs and every gradient of all cases, in float64 and in float32."""
    folder = os.environ.get("AVCORE_GOLDEN")
    if not folder:
        return {"skipped": "AVCORE_GOLDEN is not set"}
    found: Found = {}
    for name, make in CASES.items():
        if not Path(folder, f"{name}.json").is_file():
            found[name] = {"missing": f"AVCORE_GOLDEN has no {name}.json", "ok": False}
            continue
        tensors, meta = load_case(name)
        for dtype, bound in ((torch.float64, 5e-5), (torch.float32, SINGLE)):
            with tempfile.TemporaryDirectory() as files:
                case = make(tensors, meta, Path(files))
            off = held(case, device, dtype)
            found[f"{name} {dtype}"] = {**off, "bound": bound, "ok": max(off.values()) <= bound}
    return found


def held(case: Case, device: str, dtype: torch.dtype) -> dict[str, float]:
    """How far outputs and gradients are, at most: outputs of their largest value, gradients of that or of one."""
    model = case.model.to(device, dtype)
    images = {stream: x.to(device, dtype) for stream, x in case.images.items()}
    model.front_ends = lambda batch: images  # type: ignore[method-assign]
    batch = Batch(
        frames=None,
        waveform=None,
        targets={},
        names=["clip"] * case.clips,
        samples=torch.arange(case.clips),
        valid=torch.ones(case.clips, dtype=torch.bool),
    )
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, in convolutions too
    try:
        made = case.read(model(batch.to(torch.device(device))))
        terms = [(made[name] * value.to(device, dtype)).sum() for name, value in case.cotangents.items()]
        torch.stack(terms).sum().backward()
    finally:
        torch.backends.cudnn.allow_tf32 = True
    own = {name: one.grad for group in parameter_groups(model).values() for name, one in group}
    return {
        "outputs": max(furthest(made[name], reference) for name, reference in case.outputs.items()),
        "gradients": max(
            furthest(own[name], reference, least=1.0)  # type: ignore[arg-type]  # one that got none is a failure
            for name, reference in case.gradients.items()
        ),
    }


def furthest(found: Tensor, reference: Tensor, *, least: float = 1e-12) -> float:
    """The largest difference, of the largest value of the reference, or of ``least`` where all are smaller."""
    found, reference = found.detach().double().cpu(), reference.detach().double().cpu()
    return float((found - reference).abs().max() / reference.abs().max().clamp_min(least))
