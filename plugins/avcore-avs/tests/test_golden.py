"""Parity with the published implementations. Sizes, flags and stages come from each case's description."""

import pytest
import torch
from torch import Tensor

from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Batch, Features, StreamFeatures
from avcore.testing.golden import as_stored, assert_close, load_case
from avcore_avs.config import AVSHeadConfig, AVSTaskConfig
from avcore_avs.convert import from_reference
from avcore_avs.decoder import AVSDecoder
from avcore_avs.heads import AVSHead
from avcore_avs.losses import frame_weights, mask_bce, matching
from avcore_avs.metrics import AVSMetrics, m_f, m_j
from avcore_avs.task import AVSTask

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def inputs(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs in float64, ready to collect gradients."""
    return {key: value.double().requires_grad_() for key, value in under(tensors, "in/").items()}


def out_tolerance(meta: dict, key: str) -> float:
    """Outputs were stored from a float32 run, whose own error the case records."""
    return max(TOLERANCE, 2 * meta["float32_vs_float64"][key]["rel_to_max"])


def assert_gradients(
    tensors: dict[str, Tensor], given: dict[str, Tensor], module: torch.nn.Module | None, **how
) -> None:
    wanted = under(tensors, "grad/")
    parameters = {} if module is None else dict(module.named_parameters())
    of_inputs = under(wanted, "in/")
    of_parameters = from_reference({k: v for k, v in wanted.items() if not k.startswith("in/")}, **how)
    assert of_inputs or of_parameters
    for name, reference in of_inputs.items():
        assert_close(given[name].grad, reference, TOLERANCE)
    for name, reference in of_parameters.items():
        assert_close(parameters[name].grad, reference, TOLERANCE)


@pytest.mark.parametrize("case", ["c7_avsbench_decoder"])
def test_decoder(case: str) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]
    decoder = AVSDecoder(
        config["map_channels"],
        config["channel"],
        tpavi_stages=config["tpavi_stages"],
        audio_width=config["audio_width"],
    )
    decoder.double().eval().load_state_dict(from_reference(under(tensors, "weights/")))
    given = inputs(tensors)
    out = decoder(
        [given[f"map{number}"] for number in range(1, len(config["map_channels"]) + 1)], given["audio"], config["T"]
    )
    assert_close(out.logits, tensors["out/logits"], out_tolerance(meta, "out/logits"))
    assert sorted(out.audio) == sorted(config["tpavi_stages"])
    for stage, audio in out.audio.items():
        assert_close(audio, tensors[f"out/audio_stage{stage}"], TOLERANCE)
    (out.logits * given["cotangent_logits"].detach()).sum().backward()
    assert_gradients(tensors, given, decoder)


def cotangent(logits_M1YX: Tensor) -> Tensor:
    """The fixed cotangent that the description of c7_lavish_avs_head states."""
    frames, _, rows, columns = logits_M1YX.shape
    frame, row, column = (torch.arange(count, dtype=torch.float64) for count in (frames, rows, columns))
    return torch.cos(frame + 0.1)[:, None, None, None] * torch.cos(0.37 * row)[:, None] * torch.sin(0.23 * column + 0.5)


@pytest.mark.parametrize("case", ["c7_lavish_avs_head"])
def test_head(case: str) -> None:
    tensors, meta = load_case(case)
    config = meta["config"]
    segments, grids = config["T"], config["grids"]
    stages = tuple(
        StageLayout(width=width, heads=1, depth=1, grid=(grid, grid))
        for width, grid in zip(config["widths_of_stages"], grids, strict=True)
    )
    given = inputs(tensors)
    audio_stage = StageLayout(width=given["audio_tokens"].shape[-1], heads=1, depth=1, grid=(1, 1))
    settings = AVSHeadConfig(
        size=4 * config["resized_to"][0],
        width=config["channel"],
        projected=tuple(config["projected_to"]),
        tpavi_stages=tuple(config["tpavi_stages"]),
    )
    head = AVSHead(
        settings,
        {
            "visual": StreamLayout(stages=stages, segments=segments, taps=tuple(range(len(stages)))),
            "audio": StreamLayout(stages=(audio_stage,), segments=segments, taps=(0,)),
        },
        AVSTask(AVSTaskConfig()),
    )
    head.double().eval().load_state_dict(from_reference(under(tensors, "weights/"), head=True))
    maps = [
        given[f"tokens{number}"].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        for number, grid in enumerate(grids, start=1)
    ]
    output = head(features(maps, given["audio_tokens"], config["B"], segments))
    logits_M1YX = output["logits"].flatten(0, 1)
    assert logits_M1YX.shape[-1] == settings.size
    reference = tensors["out/logits"]
    assert_close(as_stored(logits_M1YX, reference, meta["outputs"]), reference, out_tolerance(meta, "out/logits"))
    for stage in config["tpavi_stages"]:
        assert_close(output[f"audio_{stage}"], tensors[f"out/audio_stage{stage}"], TOLERANCE)
    (logits_M1YX * cotangent(logits_M1YX)).sum().backward()
    assert_gradients(tensors, given, head, head=True)


def features(maps: list[Tensor], audio_MND: Tensor, clips: int, segments: int) -> Features:
    def stream(tokens_MND: Tensor, kept: tuple[Tensor, ...]) -> StreamFeatures:
        pooled = tokens_MND.mean(1).unflatten(0, (clips, segments))
        return StreamFeatures(pooled=pooled, tokens=tokens_MND, raw_tokens=tokens_MND, maps=kept)

    visual = stream(maps[-1].flatten(2).transpose(1, 2), tuple(maps))
    streams = {"visual": visual, "audio": stream(audio_MND, ())}
    return Features(streams=streams, clips=clips, segments=segments, valid=torch.ones(clips, dtype=torch.bool))


@pytest.mark.parametrize("case", ["c8_loss_avs_s4"])
def test_loss_s4(case: str) -> None:
    tensors, _ = load_case(case)
    given = inputs(tensors)
    first_BYX = tensors["in/mask_first"].flatten(1, 2).squeeze(1)
    clips = len(first_BYX)
    logits_BTYX = given["logits"].squeeze(1).unflatten(0, (clips, -1))
    # Whatever stands in the other frames must not matter.
    masks_BTYX = torch.full_like(logits_BTYX, 0.5)
    masks_BTYX[:, 0] = first_BYX
    labelled_BT = torch.ones(logits_BTYX.shape[:2], dtype=torch.bool)
    weights_BT = frame_weights(labelled_BT, torch.ones(clips, dtype=torch.bool), "first")
    loss = mask_bce(logits_BTYX, masks_BTYX, weights_BT)
    assert_close(loss, tensors["out/loss"], TOLERANCE)
    loss.backward()
    # The largest gradient is about 1e-3: relative to it, not to 1.
    assert_close(given["logits"].grad, tensors["grad/in/logits"], TOLERANCE, floor=0)


@pytest.mark.parametrize("case", ["c8_loss_avs_ms3", "c8_loss_avs_ms3_norm"])
def test_loss_ms3(case: str) -> None:
    tensors, meta = load_case(case)
    given = inputs(tensors)
    count = sum(key.startswith("map") for key in given)
    stages = [(given[f"audio{stage}"].flatten(0, 1), given[f"map{stage}"]) for stage in range(count)]
    clips, segments = given["audio0"].shape[:2]
    logits_BTYX = given["logits"].squeeze(1).unflatten(0, (clips, segments))
    masks_BTYX = tensors["in/masks"].squeeze(1).unflatten(0, (clips, segments))
    normalise = meta["name"].endswith("_norm")
    every_M = torch.ones(clips * segments, dtype=torch.bool)
    avm = matching(logits_BTYX.flatten(0, 1), stages, every_M, normalise=normalise)
    assert_close(avm, tensors["out/avm"], TOLERANCE)
    loss = mask_bce(logits_BTYX, masks_BTYX, every_M.view(clips, segments)) + 0.5 * avm
    assert_close(loss, tensors["out/loss"], TOLERANCE)
    loss.backward()
    for name, reference in under(tensors, "grad/in/").items():
        assert_close(given[name].grad, reference, TOLERANCE, floor=0)


@pytest.mark.parametrize("case", ["c9_metric_avs"])
def test_metric(case: str) -> None:
    tensors, meta = load_case(case)
    probability_BTYX, masks_BTYX = tensors["in/logits"].float().sigmoid(), tensors["in/masks"]
    clips = len(masks_BTYX)
    for name, wanted in meta["results"].items():
        size = int(name.removeprefix("batch"))
        starts = range(0, clips, size)
        batches = [
            (probability_BTYX[at : at + size].flatten(0, 1), masks_BTYX[at : at + size].flatten(0, 1)) for at in starts
        ]
        each = torch.tensor([(m_j(*batch), m_f(*batch)) for batch in batches], dtype=torch.float64)
        for column, metric in enumerate(("M_J", "M_F")):
            assert_close(each[:, column], tensors[f"out/{name}_{metric}_per_batch"], 1e-6)
            assert abs(each[:, column].mean().item() - wanted[metric]) < 1e-6

        metrics = AVSMetrics("paper", paper_batch=size)
        for at in range(0, clips, 3):  # the loader's batches are not those of the metric
            metrics.update({"masks": probability_BTYX[at : at + 3]}, batch_of(masks_BTYX[at : at + 3], first=at))
        scores = metrics.compute()
        assert scores.keys() == {"M_J", "M_F"}
        for metric, value in scores.items():
            assert abs(value / 100 - wanted[metric]) < 1e-6


def batch_of(masks_BTYX: Tensor, *, first: int = 0) -> Batch:
    clips, segments = masks_BTYX.shape[:2]
    return Batch(
        frames=None,
        waveform=None,
        targets={"masks": masks_BTYX, "labelled": torch.ones(clips, segments, dtype=torch.bool)},
        names=[str(number) for number in range(clips)],
        samples=first + torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )
