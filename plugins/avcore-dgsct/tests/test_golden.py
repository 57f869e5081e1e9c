"""Parity with the published implementation. Sizes, flags and modes come from each case's description."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore.injection import PairLayout
from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Features, Input, StreamFeatures
from avcore.testing.golden import as_stored, assert_close, load_case
from avcore_ave.config import AVETaskConfig, TemporalSettings
from avcore_ave.losses import event_losses
from avcore_ave.task import AVETask
from avcore_avs.config import AVSTaskConfig
from avcore_avs.task import AVSTask
from avcore_avvp.config import AVVPTaskConfig
from avcore_avvp.task import AVVPTask
from avcore_dgsct.ave import AVEHead
from avcore_dgsct.avs import AVSHead
from avcore_dgsct.avvp import AVVPHead
from avcore_dgsct.bottleneck import BottleneckPair
from avcore_dgsct.convert import bottleneck_key
from avcore_dgsct.convert_heads import ave_head_keys, avs_head_keys, avvp_head_keys
from avcore_dgsct.settings import AVEHeadSettings, AVSHeadSettings, AVVPHeadSettings, DGSCTSettings

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def inputs(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs in float64, ready to collect gradients."""
    return {key: value.double().requires_grad_() for key, value in under(tensors, "in/").items()}


def out_tolerance(meta: dict[str, Any], key: str) -> float:
    """Outputs were stored from a float32 run, whose own error the case records."""
    return max(TOLERANCE, 2 * meta["float32_vs_float64"].get(key, {}).get("rel_to_max", 0.0))


def layout(width: int, side: int, segments: int = 1) -> StreamLayout:
    stage = StageLayout(width=width, heads=1, depth=1, grid=(side, side))
    return StreamLayout(stages=(stage,), segments=segments, taps=(0,))


def assert_gradients(module: nn.Module, expected: dict[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    assert expected
    for key, reference in expected.items():
        assert_close(parameters[key].grad, reference, TOLERANCE)


# --------------------------------------------------------------------------------------------------------- bottlenecks


def renamed(tensors: dict[str, Tensor], settings: DGSCTSettings) -> dict[str, Tensor]:
    """``visual.my_tokens`` and so on under the names of `BottleneckPair`, without what is never used."""
    made = {}
    for key, value in tensors.items():
        stream, _, rest = key.partition(".")
        name = bottleneck_key(rest, settings)
        if name is not None:
            made[f"{stream}.{name}"] = value.flatten(1) if value.ndim == 4 else value
    return made


@pytest.mark.parametrize("case", ["c4_dgsct_adapter_ave", "c4_dgsct_adapter_ave_trainmode", "c4_dgsct_adapter_avs"])
def test_bottlenecks(case: str) -> None:
    tensors, meta = load_case(case)
    config, flags = meta["config"], meta["config"]["flags"]
    segmentation = "_avs" in case
    weighted = dict(zip(("alpha", "beta"), config.get("alpha_beta", ()), strict=False))
    settings = DGSCTSettings(
        reduction=flags["Adapter_downsample"],
        groups=flags["num_conv_group"],
        tokens=flags["num_tokens"],
        batch_norm=bool(flags["is_bn"]),
        audio_gate=bool(flags["is_gate"]),
        before_norm=bool(flags["is_before_layernorm"]),
        post_norm=bool(flags["is_post_layernorm"]),
        order="avs" if segmentation else "ave",
        align="resize" if segmentation else "tokens_then_width",
        **weighted,
    )
    blocks = [
        layout(config[width], round(config[tokens] ** 0.5)).blocks[0]
        for width, tokens in (("d_v", "N_v"), ("d_a", "N_a"))
    ]
    pair = BottleneckPair(settings, PairLayout(visual=blocks[0], audio=blocks[1], index=0, pairs=1))
    pair.double().train(meta["mode"] == "train")
    weights = under(tensors, "weights/")
    pair.load_state_dict(renamed(weights, settings))
    given = inputs(tensors)

    visual, audio = pair(given["x_v"], given["x_a"])
    made = {"visual": visual.add, "visual_map": visual.map, "audio": audio.add, "audio_map": audio.map}
    for name, out in made.items():
        assert_close(out, tensors[f"out/{name}"], out_tolerance(meta, f"out/{name}"))
    for key, reference in renamed(under(tensors, "out/after_"), settings).items():
        assert_close(dict(pair.named_buffers())[key], reference, TOLERANCE)

    torch.stack([(out * given[f"cotangent_{name}"].detach()).sum() for name, out in made.items()]).sum().backward()
    gradients = under(tensors, "grad/")
    for key, reference in under(gradients, "in/").items():
        assert_close(given[key].grad, reference, TOLERANCE)
    expected = renamed({key: value for key, value in gradients.items() if not key.startswith("in/")}, settings)
    assert expected.keys() == dict(pair.named_parameters()).keys()
    assert_gradients(pair, expected)


# ------------------------------------------------------------------------------------------------ event localisation


@pytest.mark.parametrize("case", ["c7_dgsct_ave_head"])
def test_event_head(case: str) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]
    settings = AVEHeadSettings(
        visual_width=config["v_fc"],
        audio_width=config["a_fc"],
        temporal=TemporalSettings(
            width=config["d_model"], feed_forward=config["feed_forward"], heads=config["heads"], dropout=0.3
        ),
        input_dropout=0.3,
    )
    clips, segments = config["B"], config["T"]
    classes = tuple(map(str, range(tensors["out/event"].shape[-1])))
    layouts = {stream: layout(config[f"{stream}_in"], 1, segments) for stream in ("visual", "audio")}
    head = AVEHead(settings, layouts, AVETask(AVETaskConfig(classes=classes))).double().eval()
    weights = under(tensors, "weights/")
    head.load_state_dict(ave_head_keys(weights))
    assert sum(value.numel() for value in weights.values()) == head.unused_in_reference + sum(
        parameter.numel() for parameter in head.parameters()
    )

    given = inputs(tensors)
    visual, audio = (_stream(given[name]) for name in ("visual", "audio"))
    features = Features(
        streams={"visual": visual, "audio": audio},
        clips=clips,
        segments=segments,
        valid=torch.ones(clips, dtype=torch.bool),
    )
    output = head(features)
    interacted = head.temporal(given["visual"], given["audio"])
    # The published code has segments first.
    found = {
        "is_event": output["is_event"].T[..., None],
        "gate": output["gate"].T[..., None],
        "event": output["event"],
        "av_score": output["score"],
        "video": interacted.visual.transpose(0, 1),
        "audio": interacted.audio.transpose(0, 1),
    }
    for name, reference in under(tensors, "out/").items():
        assert_close(found[name], reference, out_tolerance(meta, f"out/{name}"))
    cotangents = under(tensors, "in/cotangent_")
    torch.stack([(found[name] * cotangent.double()).sum() for name, cotangent in cotangents.items()]).sum().backward()
    gradients = under(tensors, "grad/")
    for name in ("visual", "audio"):
        assert_close(given[name].grad, gradients.pop(f"in/{name}"), TOLERANCE)
    assert_gradients(head, ave_head_keys(gradients))


def _stream(pooled_BTD: Tensor) -> StreamFeatures:
    tokens_MND = pooled_BTD.flatten(0, 1)[:, None]
    return StreamFeatures(pooled=pooled_BTD, tokens=tokens_MND, raw_tokens=tokens_MND, maps=())


@pytest.mark.parametrize("case", ["c8_loss_dgsct_ave"])
def test_event_loss(case: str) -> None:
    tensors, _ = load_case(case)
    given = inputs(tensors)
    output = {
        "is_event": given["is_event"].squeeze(-1).T,
        "gate": given["gate"].squeeze(-1).T,
        "event": given["event"],
        "score": given["av_score"],
    }
    labels_BT = tensors["in/labels"].argmax(-1)
    background = tensors["in/labels"].shape[-1] - 1
    assert (labels_BT == background).all(1).any()
    terms = event_losses(output, labels_BT, torch.ones(len(labels_BT), dtype=torch.bool), background)
    for name, term in terms.items():
        assert_close(term, tensors[f"out/loss_{'av' if name == 'score' else name}"], TOLERANCE)
    loss = torch.stack(list(terms.values())).sum()
    assert_close(loss, tensors["out/loss"], TOLERANCE)
    loss.backward()
    for name, reference in under(tensors, "grad/in/").items():
        # The largest gradient is about 1e-2: relative to it, not to 1.
        assert_close(given[name].grad, reference, TOLERANCE, floor=0)


# ------------------------------------------------------------------------------------------------------ segmentation


@pytest.mark.parametrize("case", ["c7_dgsct_avs_head"])
def test_segmentation_head(case: str) -> None:
    tensors, meta = load_case(case)
    config, temporal = meta["config"], meta["config"]["temporal_module"]
    clips, segments, grids = config["B"], config["T"], config["grids"]
    stages = tuple(
        StageLayout(width=width, heads=1, depth=1, grid=(grid, grid))
        for width, grid in zip(config["widths_of_stages"], grids, strict=True)
    )
    given = inputs(tensors)
    settings = AVSHeadSettings(
        size=4 * config["resized_to"][0],
        width=config["channel"],
        tpavi_stages=tuple(config["tpavi_stages"]),
        temporal=TemporalSettings(width=temporal["d_model"], feed_forward=temporal["feed_forward"]),
        gamma=temporal["gamma"],
    )
    head = AVSHead(
        settings,
        {
            "visual": StreamLayout(stages=stages, segments=segments, taps=tuple(range(len(stages)))),
            "audio": layout(given["audio_tokens"].shape[-1], round(given["audio_tokens"].shape[1] ** 0.5), segments),
        },
        AVSTask(AVSTaskConfig()),
    )
    head.double().eval().load_state_dict(avs_head_keys(under(tensors, "weights/")))
    maps = tuple(
        given[f"tokens{number}"].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        for number, grid in enumerate(grids, start=1)
    )
    pooled_BTD = (given["audio_map"] @ given["audio_tokens"]).squeeze(1).unflatten(0, (clips, segments))
    visual = StreamFeatures(pooled=pooled_BTD, tokens=given["tokens4"], raw_tokens=given["tokens4"], maps=maps)
    streams = {"visual": visual, "audio": _stream(pooled_BTD)}
    features = Features(streams=streams, clips=clips, segments=segments, valid=torch.ones(clips, dtype=torch.bool))
    output = head(features)
    logits_M1YX = output["logits"].flatten(0, 1)
    reference = tensors["out/logits"]
    assert_close(as_stored(logits_M1YX, reference, meta["outputs"]), reference, out_tolerance(meta, "out/logits"))
    for stage in config["tpavi_stages"]:
        assert_close(output[f"audio_{stage}"], tensors[f"out/audio_stage{stage}"], TOLERANCE)

    (logits_M1YX * cotangent(logits_M1YX)).sum().backward()
    gradients = under(tensors, "grad/")
    for key, reference in under(gradients, "in/").items():
        assert_close(given[key].grad, reference, TOLERANCE)
    assert_gradients(head, avs_head_keys({key: gradients[key] for key in gradients if not key.startswith("in/")}))


def cotangent(logits_M1YX: Tensor) -> Tensor:
    """The fixed cotangent that the description of the case states."""
    frames, _, rows, columns = logits_M1YX.shape
    frame, row, column = (torch.arange(size, dtype=torch.float64) for size in (frames, rows, columns))
    return torch.cos(frame + 0.1)[:, None, None, None] * torch.cos(0.37 * row)[:, None] * torch.sin(0.23 * column + 0.5)


# ------------------------------------------------------------------------------------------------------- video parsing


@pytest.mark.parametrize("case", ["c7_dgsct_avvp_head"])
def test_parsing_head(case: str) -> None:
    tensors, meta = load_case(case)
    config, temporal = meta["config"], meta["config"]["temporal"]
    assert config["assign"] == "soft"
    given = inputs(tensors)
    clips, segments, motion = given["visual_st"].shape
    settings = AVVPHeadSettings(
        width=config["dim"],
        depth_audio=config["depth_aud"],
        depth_visual=config["depth_vis"],
        depth_both=config["depth_av"],
        temporal=TemporalSettings(width=temporal["d_model"], feed_forward=temporal["feed_forward"], dropout=0.3),
        gamma=temporal["gamma"],
    )

    class Task(AVVPTask):
        inputs = {"r2plus1d_18": Input(shape=(segments, motion))}  # noqa: RUF012 - as narrow as the case's

    classes = tuple(map(str, range(tensors["out/clip"].shape[-1])))
    layouts = {stream: layout(config[f"{stream}_in"], 1, segments) for stream in ("visual", "audio")}
    head = AVVPHead(settings, layouts, Task(AVVPTaskConfig(classes=classes))).double().eval()
    weights = under(tensors, "weights/")
    head.load_state_dict(avvp_head_keys(weights))
    assert sum(value.numel() for value in weights.values()) == head.unused_in_reference + sum(
        parameter.numel() for parameter in head.parameters()
    )

    pooled = {
        name: (given[f"{name}_map"] @ given[f"{name}_tokens"]).squeeze(1).unflatten(0, (clips, segments))
        for name in ("visual", "audio")
    }
    features = Features(
        streams={name: _stream(pooled_BTD) for name, pooled_BTD in pooled.items()},
        clips=clips,
        segments=segments,
        valid=torch.ones(clips, dtype=torch.bool),
        inputs={"r2plus1d_18": given["visual_st"]},
    )
    output = head(features)
    found = {
        **{name: output[name][0] for name in ("audio_class", "visual_class")},
        **{name: output[name] for name in ("clip", "audio")},
        "video": output["visual"],
        "audio_frame": output["frame"][:, :, 0],
        "video_frame": output["frame"][:, :, 1],
    }
    for name, reference in under(tensors, "out/").items():
        assert_close(found[name], reference, out_tolerance(meta, f"out/{name}"))
    cotangents = under(tensors, "in/cotangent_")
    torch.stack([(found[name] * cotangent.double()).sum() for name, cotangent in cotangents.items()]).sum().backward()
    gradients = under(tensors, "grad/")
    for key, reference in under(gradients, "in/").items():
        assert_close(given[key].grad, reference, TOLERANCE)
    assert_gradients(head, avvp_head_keys({key: gradients[key] for key in gradients if not key.startswith("in/")}))
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []
