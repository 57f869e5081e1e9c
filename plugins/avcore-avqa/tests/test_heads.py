"""Parameter counts of the published heads, and what the head does with streams, padding and companions."""

import pytest
import torch

from avcore.errors import AssemblyError
from avcore.specs import StageLayout, StreamLayout
from avcore.tasks import Batch, Features, Progress, StreamFeatures, Task
from avcore_avqa.config import AVQATaskConfig, AVSTHeadConfig
from avcore_avqa.heads import AVSTHead
from avcore_avqa.losses import match_loss
from avcore_avqa.network import QuestionEncoder
from avcore_avqa.task import AVQATask

TASK = AVQATask(AVQATaskConfig())


def layout(width: int, prefix: int = 0) -> StreamLayout:
    stage = StageLayout(width=width, heads=1, depth=1, grid=(2, 3), prefix=prefix)
    return StreamLayout(stages=(stage,), segments=2, taps=(0,))


def head(visual: int, audio: int, prefix: int = 0, **settings: object) -> AVSTHead:
    layouts = {"visual": layout(visual, prefix), "audio": layout(audio)}
    return AVSTHead(AVSTHeadConfig(**settings), layouts, TASK)


@pytest.mark.parametrize(
    ("visual", "audio", "settings", "used", "created"),
    [
        (512, 128, {}, 7_916_716, 10_608_300),  # AVST
        (1536, 1536, {}, 9_424_556, 12_182_188),  # LAVISH
        (1536, 1536, {"audio_hidden": 128, "negatives": "parts"}, 8_900_396, 8_900_396),  # STG-CMA
        (1024, 1024, {"audio_hidden": 128, "negatives": "parts"}, 8_572_716, 8_572_716),  # AV-STFP
        (1536, 768, {"width": 1536}, 66_870_444, 70_415_532),  # DG-SCT
    ],
)
def test_published_counts(visual: int, audio: int, settings: dict[str, object], used: int, created: int) -> None:
    with torch.device("meta"):
        made = head(visual, audio, **settings)
    assert sum(one.numel() for one in made.parameters()) == used
    assert used + made.unused_in_reference == created


def stream(width: int, tokens: int, seed: int) -> StreamFeatures:
    made = torch.randn(6, tokens, width, generator=torch.Generator().manual_seed(seed))
    return StreamFeatures(pooled=made.mean(1).unflatten(0, (3, 2)), tokens=made, raw_tokens=made, maps=())


def features(prefix: int, seed: int = 0, negative: bool = True) -> Features:
    streams = {"visual": stream(8, prefix + 6, seed), "audio": stream(12, 6, seed + 1)}
    valid = torch.tensor([True, True, False])
    companions = {"negative": features(prefix, seed + 7, negative=False)} if negative else {}
    question = TASK.read_input("question", "Is the piano louder than the flute?").repeat(3, 1)
    return Features(
        streams=streams, clips=3, segments=2, valid=valid, companions=companions, inputs={"question": question}
    )


def test_the_class_token_is_no_place_in_the_picture() -> None:
    made = head(8, 12, prefix=1, width=16).eval()
    given = features(prefix=1)
    output = made(given)
    assert {name: tuple(tensor.shape) for name, tensor in output.items()} == {
        "answer": (3, 42),
        "match": (6, 2),
        "match_negative": (6, 2),
        "seconds": (3, 2, 2),
        "regions": (6, 6),
    }
    given.streams["visual"].tokens[:, 0] += 5
    assert torch.equal(made(given)["answer"], output["answer"])
    assert torch.equal(made(given)["regions"], output["regions"])
    given.streams["visual"].tokens[:, 1] += 5
    assert not torch.equal(made(given)["answer"], output["answer"])


def test_what_was_attended_to_is_predicted_with_the_axes_that_the_task_declares() -> None:
    made = head(8, 12, width=16).eval()
    given = features(prefix=0)
    output = made(given)
    found = made.predict(output, given)
    assert found.keys() == TASK.prediction.keys() - {"match", "match_negative"}
    assert found["place"].tolist() == [[0, 1]] * 3
    assert found["regions"].shape == (3, 2, 2, 3)
    assert torch.allclose(found["seconds"].sum(1), torch.ones(3, 2))
    assert torch.allclose(found["regions"].sum((-2, -1)), torch.ones(3, 2))
    # The region of the second picture of the first clip, on a grid of 2 by 3, that is most like its sound.
    directions = torch.nn.functional.normalize(made.network.visual(given.streams["visual"].tokens[1]), dim=-1)
    sound = torch.nn.functional.normalize(made.network.audio(given.streams["audio"].pooled[0, 1]), dim=-1)
    assert torch.allclose(found["regions"][0, 1].flatten(), (directions @ sound).softmax(-1), atol=1e-6)
    # Of sound and of pictures, in this order: what is alike in all seconds of a stream gets alike of its attention.
    alike = features(prefix=0)
    alike.streams["audio"].pooled[:] = alike.streams["audio"].pooled[:, :1]
    sound, pictures = made.predict(made(alike), alike)["seconds"].unbind(-1)
    assert torch.allclose(sound, torch.tensor(0.5))
    assert not torch.allclose(pictures, torch.tensor(0.5))
    # The question decides about the seconds, the sound alone about the regions.
    given.inputs["question"][:, 1] += 1
    other = made.predict(made(given), given)
    assert not torch.equal(other["seconds"], found["seconds"])
    assert torch.equal(other["regions"], found["regions"])
    assert {"seconds", "regions"}.isdisjoint(made.train()(given))


def test_clips_that_pad_count_in_no_loss() -> None:
    made = head(8, 12, width=16, match_weight=2.0).eval()
    given = features(prefix=0)
    output = made(given)
    targets = {"answer": torch.tensor([1, 2, 3])}
    batch = Batch(
        frames=None, waveform=None, targets=targets, names=["a"] * 3, samples=torch.arange(3), valid=given.valid
    )
    terms = made.loss(output, batch, Progress())
    match = match_loss(output["match"], output["match_negative"], given.valid.repeat_interleave(2))
    assert torch.equal(terms["match"], 2 * match)
    changed = {name: tensor.clone() for name, tensor in output.items()}
    changed["answer"][2] += torch.arange(42)
    changed["match"][4:] += torch.tensor([3.0, 0.0])
    again = made.loss(changed, batch, Progress())
    assert {name: term.item() for name, term in again.items()} == {name: term.item() for name, term in terms.items()}
    changed["match_negative"][0] += torch.tensor([0.0, 3.0])
    assert made.loss(changed, batch, Progress())["match"] > terms["match"]
    assert terms.keys() == {"answer", "match"}
    alone = made(features(prefix=0, negative=False))
    assert made.loss(alone, batch, Progress()).keys() == {"answer"}


def test_the_recurrent_network_stays_at_full_precision() -> None:
    made = QuestionEncoder(93, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made.lstm.register_forward_hook(lambda module, given, found: seen.append(found[0].dtype))
        seen: list[torch.dtype] = []
        made(torch.zeros(2, 14, dtype=torch.int64))
    assert seen == [torch.float32]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"heads": 3}, r"heads must be a divisor of width \(512\)"),
        ({"width": 0}, "width must be 1 or more"),
        ({"match_width": 3}, "match_width must be 4 or more"),
        ({"audio_hidden": -1}, "audio_hidden must be 0 or more"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"match_weight": -0.5}, "match_weight must be 0 or more"),
    ],
)
def test_settings_of_the_head_out_of_range_are_named(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AVSTHeadConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"words": ("How", "many")}, "words must be <pad> first"),
        ({"answers": ("no",)}, "answers must be different names, two at least"),
        ({"answers": ("no", "no")}, "answers must be different names"),
        ({"length": 0}, "length must be 1 or more"),
    ],
)
def test_settings_of_the_task_out_of_range_are_named(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AVQATaskConfig(**settings)


def test_a_stream_or_a_question_that_is_missing_is_refused() -> None:
    with pytest.raises(AssemblyError, match="the audio stream is off"):
        AVSTHead(AVSTHeadConfig(), {"visual": layout(8)}, TASK)
    with pytest.raises(AssemblyError, match="reads a question"):
        AVSTHead(AVSTHeadConfig(), {"visual": layout(8), "audio": layout(8)}, Task(None))
