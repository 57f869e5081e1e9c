"""Parity with the published implementation. Sizes, flags and modes come from each case's description."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import avcore_ave
import avcore_lavish
import avcore_timm
from avcore import hookimpl
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore.states import load_trainable_state, parameter_groups
from avcore.tasks import Batch
from avcore.testing.golden import as_stored, assert_close, load_case
from avcore_lavish.convert import bottleneck_key, convert
from avcore_lavish.fusion import BottleneckPair
from avcore_lavish.settings import LavishSettings
from avcore_timm.settings import SwinSettings, ViTSettings

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def out_tolerance(meta: dict[str, Any], key: str, floor: float) -> float:
    """Outputs were stored from a float32 run, whose own error the case records."""
    return max(floor, 2 * meta["float32_vs_float64"].get(key, {}).get("rel_to_max", 0.0))


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``visual.my_tokens`` and so on under the names of `BottleneckPair`, LN_pre included."""
    made = {}
    for key, value in tensors.items():
        stream, _, rest = key.partition(".")
        name = bottleneck_key(rest)
        assert name is not None, key
        made[f"{stream}.{name}"] = value.flatten(1) if value.ndim == 4 else value
    return made


@pytest.fixture(params=["one by one", "at once"], autouse=True)
def _directions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both directions as a CPU and as a GPU computes them."""
    if request.param == "at once":
        monkeypatch.setattr("avcore.modules.ONE_BY_ONE", ())


@pytest.mark.parametrize("case", ["c5_lavish_adapter_ave", "c5_lavish_adapter_avqa", "c5_lavish_adapter_avs"])
def test_bottlenecks(case: str) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]
    order = "avs" if "_avs" in case else "ave"
    settings = LavishSettings(
        reduction=config["reduction"],
        groups=config["groups"],
        tokens=config["tokens"],
        batch_norm=bool(config["batch_norm"]),
        audio_gate=bool(config["audio_gate"]),
        before_norm=bool(config["before_layernorm"]),
        post_norm=bool(config["post_layernorm"]),
        order=order,
    )
    pair = BottleneckPair(settings, config["d"], config["d"]).double().train(meta["mode"] == "train")
    weights = renamed(under(tensors, "weights/"))
    # The segmentation code allocates LN_pre and never calls it.
    unused = {key for key in weights if "norm_before" in key} if order == "avs" else set()
    pair.load_state_dict({key: value for key, value in weights.items() if key not in unused})
    given = {key: value.double().requires_grad_() for key, value in under(tensors, "in/").items()}

    side = SimpleNamespace(as_own=lambda tokens: tokens)
    equal_widths = SimpleNamespace(visual=side, audio=side)
    edits = pair(given["x_v"], given["x_a"], equal_widths)
    made = {"visual": edits.visual.add, "audio": edits.audio.add}
    for stream, out in made.items():
        key = f"out/{stream}"
        assert_close(out, tensors[key], out_tolerance(meta, key, TOLERANCE))
    for key, reference in renamed(under(tensors, "out/after_")).items():
        assert_close(dict(pair.named_buffers())[key], reference, TOLERANCE)

    torch.stack([(out * given[f"cotangent_{stream}"].detach()).sum() for stream, out in made.items()]).sum().backward()
    gradients = under(tensors, "grad/")
    for key, reference in under(gradients, "in/").items():
        assert_close(given[key].grad, reference, TOLERANCE)
    of_parameters = renamed({key: value for key, value in gradients.items() if not key.startswith("in/")})
    parameters = dict(pair.named_parameters())
    assert of_parameters.keys() == parameters.keys()
    for key, reference in of_parameters.items():
        assert_close(parameters[key].grad, reference, TOLERANCE)


class Narrow:
    """A backbone of the size of a case."""

    def __init__(self, config: dict[str, Any]) -> None:
        common = {"img_size": config["img"], "embed_dim": config["e"], "num_heads": config["h"]}
        if "depths" in config:
            model, self.build, self.settings = "swinv2_tiny_window8_256", "avcore_timm.swin:build_v2", SwinSettings
            own = {"window_size": config["win"], "depths": config["depths"]}
        else:
            model, self.build, self.settings = "vit_tiny_patch16_224", "avcore_timm.vit:build", ViTSettings
            own = {"patch_size": config["patch"], "depth": config["depth"]}
        self.preset = {"model": model, "arguments": common | own}

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        return [
            BackboneSpec(name="narrow_family", build=self.build, config=self.settings, presets={"narrow": self.preset})
        ]


def build(config: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> AVModel:
    """The model of a case with its weights, through the converter; the trunk's come in as a file."""
    registry = Registry.from_modules(
        {
            "avcore-timm": avcore_timm,
            "avcore-lavish": avcore_lavish,
            "avcore-ave": avcore_ave,
            "narrow": Narrow(config),
        }
    )
    swin = "depths" in config
    frames, mel = config.get("aud", (config["img"], config["img"]))
    settings = {
        "audio.frames": frames,
        "audio.mel_bins": mel,
        "data.segments": config["T"],
        "data.clip_seconds": config["T"],
        "head.hidden": config["ncls"] if swin else config["hid"],
        "head.first": "visual" if swin else "audio",
        "parts.lavish.reduction": config["r"],
        "parts.lavish.groups": config["g"],
        "parts.lavish.tokens": config["t"],
        "parts.lavish.batch_norm": bool(config["bn"]),
        "parts.lavish.audio_gate": bool(config["gate"]),
        "parts.lavish.before_norm": bool(config["pre"]),
        "parts.lavish.post_norm": bool(config["post"]),
    }

    def assembled(file: str, meta: bool) -> AVModel:
        resolved = resolve_config(
            registry,
            method="lavish",
            task="ave",
            visual="narrow",
            options={**settings, "visual.weights": file},
            need_data=False,
        )
        return assemble(resolved.config, registry, meta=meta)

    made = convert(weights, assembled("random", True))
    trunk = {key.removeprefix("visual."): value for key, value in made.items() if key.startswith("visual.")}
    file = folder / "trunk.safetensors"
    save_file({key: value.contiguous() for key, value in trunk.items()}, file)
    model = assembled(str(file), False)
    load_trainable_state(model, {key: value for key, value in made.items() if not key.startswith("visual.")})
    return model.double()


@pytest.mark.parametrize("case", ["c5_lavish_ave_vit", "c5_lavish_ave_swin"])
def test_whole_model(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]
    model = build(config, under(tensors, "weights/"), tmp_path).train(meta["mode"] == "train")
    images = {
        "visual": tensors["in/image"].double().flatten(0, 1),
        "audio": tensors["in/audio"].double().flatten(0, 1),
    }
    monkeypatch.setattr(model, "front_ends", lambda batch: images)
    empty = Batch(
        frames=None, waveform=None, targets={}, names=[], samples=torch.arange(0), valid=torch.ones(0, dtype=torch.bool)
    )
    output = model(empty)
    visual, audio = output.features.stream("visual"), output.features.stream("audio")
    logits = output["logits"].flatten(0, 1)
    pooled = [visual.pooled, audio.pooled] if "depths" in config else [audio.pooled, visual.pooled]
    found = {
        "visual_embed": model.towers["visual"].embed(images["visual"]),
        "audio_embed": model.towers["audio"].embed(images["audio"]),
        "visual_tokens_normed": visual.tokens,
        "audio_tokens_normed": audio.tokens,
        "head_input": torch.cat(pooled, -1).flatten(0, 1),
        "logits": logits,
        "softmax": logits.softmax(-1),
    }
    for stream, features in (("visual", visual), ("audio", audio)):
        for stage, map_MDYX in enumerate(features.maps):
            found[f"{stream}_stage{stage}_end"] = map_MDYX.flatten(2).transpose(1, 2)
    for key, reference in under(tensors, "out/").items():
        made = as_stored(found[key], reference, meta["outputs"])
        assert_close(made, reference, out_tolerance(meta, f"out/{key}", 5e-5), floor=0)

    (logits * tensors["in/cotangent_logits"].double()).sum().backward()
    gradients = convert(under(tensors, "grad/"), model)
    parameters = {name: value for group in parameter_groups(model).values() for name, value in group}
    assert gradients
    for key, reference in gradients.items():
        assert_close(parameters[key].grad, reference, TOLERANCE)
