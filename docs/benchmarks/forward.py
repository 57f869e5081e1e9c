"""Whether another state of the code computes the same: digests of features and gradients, to the last bit.

Every method's parts, by themselves and mixed, on three pairs of backbones of the real block classes at small width, in
float32 and float64, in training mode with one seed. Run it in both checkouts, on one machine with one thread::

    OMP_NUM_THREADS=1 python docs/benchmarks/forward.py before.json
    OMP_NUM_THREADS=1 python docs/benchmarks/forward.py after.json --against before.json
"""

import argparse
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import torch

import avcore_copl
import avcore_dgsct
import avcore_lavish
import avcore_stfp
import avcore_stgcma
import avcore_timm
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.hookspecs import hookimpl
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore.states import parameter_groups
from avcore.testing.toys import ToyPlugin, make_batch
from avcore_timm.settings import SwinSettings, ViTSettings

VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 4, "num_heads": 2}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 1, 1), "num_heads": (1, 2, 4)}
PAIRS = (("narrow_vit", "shared"), ("narrow_swinv2", "shared"), ("narrow_swinv2", "test_htsat"))
PARTS = (
    *(("copl", "none"), ("none", "copl"), ("copl", "copl"), ("stfp", "none"), ("stfp", "stfp")),
    *(("none", "stgcma"), ("stgcma", "stgcma"), ("none", "lavish"), ("none", "dgsct")),
    *(("copl", "dgsct"), ("stfp", "lavish")),
)


@hookimpl
def avcore_backbones() -> list[BackboneSpec]:
    """The real block classes at small width."""
    vit = {"model": "vit_tiny_patch16_224", "arguments": VIT}
    swin = {"model": "swinv2_tiny_window8_256", "arguments": SWIN}
    return [
        BackboneSpec(name="narrow", build="avcore_timm.vit:build", config=ViTSettings, presets={"narrow_vit": vit}),
        BackboneSpec(
            name="narrow_swins", build="avcore_timm.swin:build_v2", config=SwinSettings, presets={"narrow_swinv2": swin}
        ),
    ]


REGISTRY = Registry.from_modules(
    {
        "avcore-timm": avcore_timm,
        "narrow": SimpleNamespace(avcore_backbones=avcore_backbones),
        "toys": ToyPlugin(),
        "avcore-copl": avcore_copl,
        "avcore-dgsct": avcore_dgsct,
        "avcore-lavish": avcore_lavish,
        "avcore-stfp": avcore_stfp,
        "avcore-stgcma": avcore_stgcma,
    }
)


def made(prompts: str, fusion: str, visual: str, audio: str, dtype: torch.dtype) -> AVModel:
    """The model, its trained tensors moved off their initial zeros."""
    own = () if audio == "shared" else ("audio.weights=random",)
    resolved = resolve_config(
        REGISTRY,
        task="toy",
        prompts=prompts,
        fusions=fusion,
        visual=visual,
        audio=audio,
        options={"data.dataset": "toy-data"},
        sets=("visual.weights=random", *own),
        need_data=False,
    )
    model = assemble(resolved.config, REGISTRY).to(dtype).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                draws = torch.Generator().manual_seed(1)
                parameter.add_(torch.randn(parameter.shape, generator=draws, dtype=dtype) * 0.02)
    return model


def digests(model: AVModel) -> dict[str, str]:
    """Of everything that a head may read, and of the gradients of its mean squares."""
    torch.manual_seed(0)
    features = model(make_batch(model)).features
    read = [tensor for offered in features.offers.values() for tensor in offered]
    for stream in ("visual", "audio"):
        found = features.stream(stream)
        read += [found.pooled, found.tokens, found.raw_tokens, *found.maps]
    torch.stack([tensor.square().mean() for tensor in read]).sum().backward()
    trained = sorted((name, one) for group in parameter_groups(model).values() for name, one in group)
    gradients = [one.grad for _, one in trained if one.grad is not None]
    return {"features": digest(read), "gradients": digest(gradients), "tensors": str(len(read) + len(gradients))}


def digest(tensors: list[torch.Tensor]) -> str:
    """The first digits of SHA-256 of their values."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().double().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    """Write the digests; with ``--against`` compare them and end with 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    found = {}
    for prompts, fusion in PARTS:
        for visual, audio in PAIRS:
            for dtype in (torch.float32, torch.float64):
                model = made(prompts, fusion, visual, audio, dtype)
                found[f"{prompts} + {fusion}, {visual} + {audio}, {dtype}"] = digests(model)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} models")
    if given.against is not None:
        before = json.loads(given.against.read_text())
        apart = sorted(name for name in before.keys() | found.keys() if before.get(name) != found.get(name))
        print(*apart, sep="\n") if apart else print("all equal to the last bit")
        raise SystemExit(bool(apart))


if __name__ == "__main__":
    main()
