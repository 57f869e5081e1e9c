"""Parity with the published implementations. Sizes and widths come from each case's tensors and description."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from avcore.tasks import Batch
from avcore.testing.golden import assert_close, load_case, real_data
from avcore_avqa.annotations import read_questions
from avcore_avqa.config import AVSTHeadConfig
from avcore_avqa.convert import rename
from avcore_avqa.losses import answer_loss, match_loss
from avcore_avqa.metrics import NAMES, AVQAMetrics
from avcore_avqa.network import AVSTNetwork, QuestionEncoder
from avcore_avqa.words import ANSWERS

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5
CASES = {"c7_avst_head": "512", "c7_lavish_avqa_head": "512", "c7_dgsct_avqa_head": "1536"}


def tokens(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Tokens of pictures (M, N, V), from tokens or from maps."""
    if f"in/{name}_tokens" in tensors:
        return tensors[f"in/{name}_tokens"]
    return tensors[f"in/{name}"].flatten(0, 1).flatten(2).mT


def sound(tensors: dict[str, Tensor]) -> Tensor:
    """Vectors of sound (M, A): given, or the mean of tokens, or by the weights of DG-SCT's attention pooling."""
    if "in/audio" in tensors:
        return tensors["in/audio"].flatten(0, 1)
    tokens_MNA = tensors["in/audio_tokens"]
    return (tensors["in/audio_map"] @ tokens_MNA)[:, 0] if "in/audio_map" in tensors else tokens_MNA.mean(1)


@pytest.mark.parametrize("case", CASES)
def test_heads(case: str) -> None:
    stored, about = load_case(case)
    tensors = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    width, renamed = CASES[case], partial(rename, lavish="lavish" in case)
    config: dict[str, Any] = about["config"]
    settings = AVSTHeadConfig(
        width=config["widths"][width], match_width=config["widths"]["512"], heads=config["attention_heads"], dropout=0
    )
    weights = {name.removeprefix("weights/"): tensor for name, tensor in tensors.items() if name.startswith("weights/")}
    loaded = {made: tensor for name, tensor in weights.items() if (made := renamed(name)) is not None}
    given = [name for name in tensors if name.startswith("in/") and tensors[name].is_floating_point()]
    for name in given:
        tensors[name].requires_grad_()
    visual, audio, negative = tokens(tensors, "visual"), sound(tensors), tokens(tensors, "negative")
    question = QuestionEncoder(config["words"], settings.width)
    network = AVSTNetwork(settings, visual.shape[-1], audio.shape[-1], question, config["answers"]).double()
    # The hidden widths of the narrow matching are not halves of each other.
    for name, tensor in loaded.items():
        if name.startswith("match.") and name.endswith("weight"):
            place = int(name.split(".")[1])
            network.match[place] = torch.nn.Linear(*tensor.shape[::-1]).double()
    network.load_state_dict(loaded)
    output = network(visual, audio, tensors["in/question"], negative.detach())
    outputs = {"answer": "answer", "match": "match_pos", "match_negative": "match_neg"}
    for name, old in outputs.items():
        assert_close(output[name], tensors[f"out/{old}"], TOLERANCE)
    torch.stack(
        [(output[name] * tensors[f"in/cotangent_{old}"]).sum() for name, old in outputs.items()]
    ).sum().backward()
    parameters = dict(network.named_parameters())
    compared = 0
    for name, reference in tensors.items():
        if name.startswith("grad/in/"):
            found = tensors[f"in/{name.removeprefix('grad/in/')}"].grad
        elif name.startswith("grad/"):
            made = renamed(name.removeprefix("grad/"))
            assert made is not None, name
            found = parameters[made].grad
        else:
            continue
        assert_close(found, reference, TOLERANCE)
        compared += 1
    assert compared >= 26


def test_loss() -> None:
    tensors, _ = load_case("c8_loss_avqa")
    given = {name: tensors[f"in/{name}"].double().requires_grad_() for name in ("answer", "match_pos", "match_neg")}
    valid_B, valid_M = (torch.ones(len(given[name]), dtype=torch.bool) for name in ("answer", "match_pos"))
    answer = answer_loss(given["answer"], tensors["in/target"], valid_B)
    match = match_loss(given["match_pos"], given["match_neg"], valid_M)
    (answer + 0.5 * match).backward()
    assert_close(answer, tensors["out/loss_answer"], TOLERANCE)
    assert_close(match, tensors["out/loss_match"], TOLERANCE)
    assert_close(answer + 0.5 * match, tensors["out/loss"], TOLERANCE)
    for name, tensor in given.items():
        assert_close(tensor.grad, tensors[f"grad/in/{name}"], TOLERANCE, floor=0)


SHORT = {"A": "Audio", "V": "Visual", "AV": "AV"}
REFERENCE = {
    **{name: " ".join((SHORT[name.split("_")[0]], name.split("_")[1])) for name in NAMES},
    **{"AQ": "Audio", "VQ": "Visual", "AVQ": "Audio-Visual", "accuracy": "Overall"},
}


@pytest.mark.parametrize("processes", [1, 3])
def test_metric(processes: int) -> None:
    """Also when each of several processes has seen some of the questions, and the states are added."""
    tensors, about = load_case("c9_metric_avqa")
    rows = read_questions(real_data("annotations", "MUSIC-AVQA", *about["config"]["file"].split("/")))
    truth = torch.tensor([ANSWERS.index(row.answer) for row in rows])
    kind = torch.tensor([row.kind for row in rows])
    assert torch.equal(truth, tensors["out/target"].long())
    parts = [AVQAMetrics("clean") for _ in range(processes)]
    for number, part in enumerate(parts):
        mine = torch.arange(number, len(rows), processes)
        predicted = tensors["in/predicted"].long()[mine]
        # The last one of each process only pads its batch.
        padded = torch.cat([mine, mine[:1]])
        part.update(
            {"answer": torch.cat([predicted, predicted[:1]])},
            Batch(
                frames=None,
                waveform=None,
                targets={"answer": truth[padded], "kind": kind[padded]},
                names=[""] * len(padded),
                samples=padded,
                valid=torch.arange(len(padded)) < len(mine),
            ),
        )
    merged = parts[0]
    for other in parts[1:]:
        merged.merge_state(other)
    scores = merged.compute()
    for name, old in REFERENCE.items():
        assert scores[name] == pytest.approx(about["results_percent"][old], abs=1e-6)
    assert "prior" not in scores
