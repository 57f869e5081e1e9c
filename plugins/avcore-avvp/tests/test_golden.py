"""Parity with the published implementations. Sizes and widths come from each case's tensors and description."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from avcore.tasks import Batch
from avcore.testing.golden import assert_close, load_case, real_data
from avcore_avvp.annotations import LISTS, classes_in, read_clips, read_events
from avcore_avvp.config import HANHeadConfig, MGNHeadConfig
from avcore_avvp.embedding import Embedding
from avcore_avvp.han.head import HybridNetwork
from avcore_avvp.losses import class_token_loss, clip_loss, smoothed
from avcore_avvp.metrics import AVVPMetrics, clip_scores, event_counts, segment_counts, thresholded
from avcore_avvp.mgn.convert import rename
from avcore_avvp.mgn.head import GroupingNetwork

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5


@pytest.mark.parametrize("case", ["c8_loss_han", "c8_loss_mgn"])
def test_losses(case: str) -> None:
    tensors, _ = load_case(case)
    given = {
        name: tensors[f"in/{name}"].clone().requires_grad_()
        for name in ("clip", "audio", "video", "audio_class", "visual_class")
        if f"in/{name}" in tensors
    }
    labels_BC, valid_B = tensors["in/target"], torch.ones(len(tensors["in/target"]), dtype=torch.bool)
    terms = [
        clip_loss(given["clip"], labels_BC, valid_B),
        clip_loss(given["audio"], smoothed(labels_BC, 1.0), valid_B),
        clip_loss(given["video"], smoothed(labels_BC, 0.9), valid_B),
        *(class_token_loss(given[name]) for name in ("audio_class", "visual_class") if name in given),
    ]
    loss = torch.stack(terms).sum()
    loss.backward()
    # At fp32, as the case asks: the clamp at 1 - 1e-7 is another number there.
    assert_close(loss, tensors["out/loss"], 1e-5)
    for name, tensor in given.items():
        assert_close(tensor.grad, tensors[f"grad/in/{name}"], 1e-5, floor=0)


DEPTHS = {"audio": "aud", "visual": "vis", "both": "av"}
OUTPUTS = {"clip": "clip", "audio": "audio", "video": "visual", "frame": "frame"}
EMBEDDING = {"fc_a": "embedding.audio", "fc_v": "embedding.visual", "fc_st": "embedding.motion"}
HAN = {
    **EMBEDDING,
    "fc_fusion": "embedding.joined",
    "fc_prob": "score",
    "fc_frame_att": "over_time",
    "fc_av_att": "over_streams",
    "hat_encoder.layers.0.self_attn": "attention.own",
    "hat_encoder.layers.0.cm_attn": "attention.other",
    "hat_encoder.layers.0.linear1": "attention.up",
    "hat_encoder.layers.0.linear2": "attention.down",
    "hat_encoder.layers.0.norm1": "attention.norm_attention",
    "hat_encoder.layers.0.norm2": "attention.norm_mlp",
}


@pytest.mark.parametrize("case", ["c7_han"])
def test_han(case: str) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]
    new = {f"weights/{old}.": f"{name}." for old, name in HAN.items()}
    names = {key: name + key.removeprefix(old) for key in tensors for old, name in new.items() if key.startswith(old)}
    embedding = Embedding(config["audio_in"], config["visual_in"], config["st_in"], config["width"])
    hidden = len(tensors["weights/hat_encoder.layers.0.linear1.bias"])
    settings = HANHeadConfig(width=config["width"], heads=config["heads"], feed_forward=hidden)
    network = HybridNetwork(embedding, config["classes"], settings).double().eval()
    network.load_state_dict({name: tensors[key].double() for key, name in names.items()})
    left_out = sum(tensors[key].numel() for key in tensors if key.startswith("weights/") and key not in names)
    assert network.unused_in_reference == left_out
    given = [tensors[f"in/{name}"].double().requires_grad_() for name in ("audio", "visual", "visual_st")]
    output = network(*given)
    total = torch.zeros((), dtype=torch.float64)
    for old, name in OUTPUTS.items():
        assert_close(output[name], tensors[f"out/{old}"], TOLERANCE)
        total = total + (output[name] * tensors[f"in/cotangent_{old}"].double()).sum()
    total.backward()
    for key, name in names.items():
        gradient = tensors.get(key.replace("weights/", "grad/"))
        if gradient is not None:
            assert_close(network.get_parameter(name).grad, gradient, TOLERANCE)
    for name, tensor in zip(("audio", "visual", "visual_st"), given, strict=True):
        assert_close(tensor.grad, tensors[f"grad/in/{name}"], TOLERANCE)


@pytest.mark.parametrize("case", ["c7_mgn"])
def test_mgn(case: str) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]
    assert {config["unimodal_assign"], config["crossmodal_assign"]} == {"soft"}
    depths = {f"depth_{name}": config[f"depth_{old}"] for name, old in DEPTHS.items()}
    settings = MGNHeadConfig(width=config["dim"], heads=config["heads"], **depths)
    model = torch.nn.ModuleDict(
        {
            "embedding": Embedding(config["audio_in"], config["visual_in"], config["st_in"], config["dim"]),
            "network": GroupingNetwork(tensors["out/clip"].shape[-1], tensors["in/audio"].shape[1], settings),
        }
    )
    model.double().eval()
    names = {key: rename(key.removeprefix("weights/")) for key in tensors if key.startswith("weights/")}
    model.load_state_dict({name: tensors[key].double() for key, name in names.items()})
    given = {name: tensors[f"in/{name}"].double().requires_grad_() for name in ("audio", "visual", "visual_st")}
    output = model["network"](*model["embedding"](*given.values()))
    found = {
        **{name: output[name][0] for name in ("audio_class", "visual_class")},
        **{name: output[name] for name in ("clip", "audio")},
        "video": output["visual"],
        "audio_frame": output["frame"][:, :, 0],
        "video_frame": output["frame"][:, :, 1],
    }
    for name, tensor in found.items():
        assert_close(tensor, tensors[f"out/{name}"], TOLERANCE)
    sum((tensor * tensors[f"in/cotangent_{name}"].double()).sum() for name, tensor in found.items()).backward()
    for key, name in names.items():
        gradient = tensors.get(key.replace("weights/", "grad/"))
        if gradient is not None:
            assert_close(model.get_parameter(name).grad, gradient, TOLERANCE)
    for name, tensor in given.items():
        assert_close(tensor.grad, tensors[f"grad/in/{name}"], TOLERANCE)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("case", ["c9_metric_avvp_small"])
def test_scores_of_small_matrices(case: str) -> None:
    tensors, _ = load_case(case)
    predicted, truth = (tensors[f"in/{name}"].bool().permute(0, 3, 1, 2) for name in ("pred", "truth"))
    for name, counts in (("segment", segment_counts), ("event", event_counts)):
        found_B4 = clip_scores(counts(predicted, truth))
        assert_close(found_B4[:, [0, 1, 3, 2]], tensors[f"out/{name}"], 1e-6)


def seconds(file: Path, classes: tuple[str, ...], names: list[str]) -> Tensor:
    found = torch.zeros(len(names), 10, len(classes), dtype=torch.bool)
    places = {name: place for place, name in enumerate(names)}
    for event in read_events(file, classes):
        if event.name in places:
            found[places[event.name], event.onset : event.offset, classes.index(event.label)] = True
    return found


@pytest.mark.parametrize("case", ["c9_metric_avvp_test"])
def test_scores_of_a_split(case: str) -> None:
    tensors, meta = load_case(case)
    root = real_data("annotations", "LLP")
    config = meta["config"]
    classes = classes_in(root)
    assert config["split_file"] in LISTS.values()
    names = [clip.name for clip in read_clips(root / config["split_file"])[0]]
    truth = torch.stack([seconds(root / config[f"{kind}_truth"], classes, names) for kind in ("audio", "visual")], 2)
    frame, clip = (tensors[f"in/{name}_probability_x254"].double() / 254 for name in ("frame", "clip"))
    predicted = thresholded(frame, clip)
    for kind, counts in (("seg", segment_counts), ("event", event_counts)):
        found_B4 = clip_scores(counts(predicted, truth))
        for column, ending in enumerate(("_a", "_v", "_av", "")):
            assert_close(found_B4[:, column], tensors[f"out/per_clip_F_{kind}{ending}"], 1e-6)
    metrics = AVVPMetrics("clean")
    for at in range(0, len(names), 500):
        some = slice(at, at + 500)
        metrics.update({"events": predicted[some]}, batch_of(truth[some], first=at))
    scores = metrics.compute()
    for name, value in meta["results_percent"].items():
        kind, column = name.split("_")
        assert scores[f"{kind}_{column.removesuffix('@AV')}"] == pytest.approx(value, abs=1e-6), name


def batch_of(seconds_BT2C: Tensor, *, first: int = 0) -> Batch:
    clips = len(seconds_BT2C)
    return Batch(
        frames=None,
        waveform=None,
        targets={"seconds": seconds_BT2C},
        names=[str(number) for number in range(clips)],
        samples=first + torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )
