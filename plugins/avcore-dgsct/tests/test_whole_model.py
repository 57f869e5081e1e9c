"""The published model of event localisation as a whole, at narrow widths, through the converter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import avcore_ave
import avcore_dgsct
import avcore_timm
from avcore import BackboneSpec, hookimpl
from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.states import load_trainable_state, parameter_groups, unused_in_reference
from avcore.tasks import Batch
from avcore.testing.golden import as_stored, assert_close, load_case
from avcore_dgsct.convert import convert
from avcore_timm.settings import HTSATSettings, SwinSettings

pytestmark = pytest.mark.golden


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


class Narrow:
    """The encoders of the case."""

    def __init__(self, config: dict[str, Any]) -> None:
        arguments = {
            "img_size": config["image"],
            "window_size": config["visual_window"],
            "embed_dim": config["visual_embed_dim"],
            "depths": config["visual_depths"],
            "num_heads": config["visual_heads"],
        }
        self.pictures = {"model": "swinv2_tiny_window8_256", "arguments": arguments}
        self.sound = {
            "mel_bins": config["mel_bins"],
            "side": config["spec_size"],
            "width": config["audio_embed_dim"],
            "depths": config["audio_depths"],
            "heads": config["audio_heads"],
            "window": config["audio_window"],
        }

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        return [
            BackboneSpec(
                name="narrow_swins",
                build="avcore_timm.swin:build_v2",
                config=SwinSettings,
                presets={"narrow_swin": self.pictures},
            ),
            BackboneSpec(
                name="narrow_htsats",
                build="avcore_timm.htsat:build",
                config=HTSATSettings,
                presets={"narrow_htsat": self.sound},
            ),
        ]


def build(config: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> tuple[AVModel, AVModel]:
    """The model of the case with its weights, which come in through the converter, and one of shapes alone."""
    registry = Registry.from_modules(
        {
            "avcore-timm": avcore_timm,
            "avcore-dgsct": avcore_dgsct,
            "avcore-ave": avcore_ave,
            "narrow": Narrow(config),
        }
    )
    seconds, flags, head = config["samples_per_segment"] / 32000, config["flags"], config["head_widths"]
    settings = {
        "data.segments": config["T"],
        "data.clip_seconds": config["T"] * seconds,
        "data.window_seconds": seconds,
        "data.window_margin": seconds,
        "audio.repeat_seconds": None,
        "parts.dgsct.reduction": flags["Adapter_downsample"],
        "parts.dgsct.groups": flags["num_conv_group"],
        "parts.dgsct.tokens": flags["num_tokens"],
        "parts.dgsct.batch_norm": bool(flags["is_bn"]),
        "parts.dgsct.audio_gate": bool(flags["is_gate"]),
        "parts.dgsct.before_norm": bool(flags["is_before_layernorm"]),
        "parts.dgsct.post_norm": bool(flags["is_post_layernorm"]),
        "head.visual_width": head["v_fc"],
        "head.audio_width": head["a_fc"],
        "head.temporal.width": head["d_model"],
        "head.temporal.feed_forward": head["feed_forward"],
        "head.temporal.heads": head["attention_heads"],
    }

    def assembled(files: dict[str, str], meta: bool) -> AVModel:
        resolved = resolve_config(
            registry,
            method="dgsct",
            task="ave",
            visual="narrow_swin",
            audio="narrow_htsat",
            options={**settings, **files},
            need_data=False,
        )
        return assemble(resolved.config, registry, meta=meta)

    shapes = assembled({"visual.weights": "random", "audio.weights": "random"}, True)
    made = convert(weights, shapes)
    files = {}
    for stream in ("visual", "audio"):
        frozen = {key.removeprefix(f"{stream}."): made.pop(key) for key in list(made) if key.startswith(f"{stream}.")}
        file = folder / f"{stream}.safetensors"
        save_file({key: value.contiguous() for key, value in frozen.items()}, file)
        files[f"{stream}.weights"] = str(file)
    model = assembled(files, False)
    load_trainable_state(model, made)
    return model.double().eval(), shapes


@pytest.mark.parametrize("case", ["c4_dgsct_ave_model"])
def test_whole_model(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]
    weights = under(tensors, "weights/")
    model, shapes = build(config, weights, tmp_path)
    unused = unused_in_reference(model)
    counts = {key: sum(parameter.numel() for parameter in part.parameters()) for key, part in model.parts.items()}
    assert counts["dgsct"] + unused["dgsct"] == meta["parameter_counts"]["adapters"]
    waves = tensors["in/wave"].double()
    images = {
        "visual": tensors["in/image"].double().flatten(0, 1),
        "audio": model.streams["audio"].front_end(waves.flatten(1)),
    }
    monkeypatch.setattr(model, "front_ends", lambda batch: images)
    clips = len(waves)
    batch = Batch(
        frames=None,
        waveform=None,
        targets={},
        names=["clip"] * clips,
        samples=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )
    output = model(batch)
    visual, audio = output.features.stream("visual"), output.features.stream("audio")
    interacted = model.head.temporal(visual.pooled, audio.pooled)
    (visual_map,), (audio_map,) = (output.features.offers[f"dgsct.{stream}_map"] for stream in ("visual", "audio"))
    tower = model.towers["audio"]
    found = {
        "audio_image": tower.fold(tower.trunk.bn0(images["audio"])),
        "audio_embed": tower.embed(images["audio"]),
        "visual_tokens_normed": visual.tokens,
        "visual_pooled": visual.pooled,
        "audio_pooled": audio.pooled,
        "visual_map_last": visual_map,
        "audio_map_last": audio_map,
        "temporal_video": interacted.visual.transpose(0, 1),
        "temporal_audio": interacted.audio.transpose(0, 1),
        "is_event": output["is_event"].T[..., None],
        "gate": output["gate"].T[..., None],
        "event": output["event"],
        "av_score": output["score"],
    }
    for stream, features in (("visual", visual), ("audio", audio)):
        for stage, x_MDYX in enumerate(features.maps[:-1]):
            found[f"{stream}_stage{stage}_end"] = x_MDYX.flatten(2).mT
    # What the last bottlenecks add is within the tokens that are compared.
    expected = {key: value for key, value in under(tensors, "out/").items() if not key.endswith("_last_increment")}
    for key, reference in expected.items():
        tolerance = max(5e-5, 2 * meta["float32_vs_float64"][f"out/{key}"]["rel_to_max"])
        assert_close(as_stored(found[key], reference, meta["outputs"]), reference, tolerance, floor=0)

    cotangents = under(tensors, "in/cotangent_")
    torch.stack([(found[name] * cotangent.double()).sum() for name, cotangent in cotangents.items()]).sum().backward()
    gradients = convert(under(tensors, "grad/"), shapes)
    parameters = {name: value for group in parameter_groups(model).values() for name, value in group}
    assert gradients
    for key, reference in gradients.items():
        assert_close(parameters[key].grad, reference, 1e-5)
