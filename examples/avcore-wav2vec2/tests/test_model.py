"""Beside a Vision Transformer, with parts of other distributions, as a user would run it."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import avcore_copl
import avcore_lavish
import avcore_timm
import avcore_wav2vec2
from avcore import AVCoreError, AVModel, Prompt, parameter_groups
from avcore.backbones import digest
from avcore.testing import capture, make_batch, make_model, tokens_for

PLUGINS = {"avcore-wav2vec2": avcore_wav2vec2, "avcore-copl": avcore_copl, "avcore-lavish": avcore_lavish}
COPL = ("parts.copl.rows.length=3", "parts.copl.coupling.length=3", "parts.copl.coupling.last=2")
LAVISH = ("parts.lavish.groups=1",)


def make(name: str, listed: Sequence[str] = (), sets: Sequence[str] = (), **options: Any) -> AVModel:
    sets = (f"audio.backbone={name}", "audio.weights=random", *sets)
    return make_model(avcore_timm, "test_vit", listed=listed, others=PLUGINS, sets=sets, **options)


@pytest.mark.parametrize(
    ("name", "listed", "sets"),
    [
        ("test_wav2vec2", ("copl.rows", "copl.coupling"), COPL),
        ("test_wav2vec2", ("lavish",), LAVISH),
        ("test_wav2vec2_prenorm", ("copl.rows", "lavish"), (*COPL[:1], *LAVISH)),
    ],
    ids=["copl", "lavish", "both"],
)
def test_parts_of_other_methods_train_beside_a_vit(name: str, listed: tuple[str, ...], sets: tuple[str, ...]) -> None:
    model = make(name, listed, sets).train()
    assert (model.towers["visual"].layout.width, model.towers["audio"].layout.width) == (64, 32)
    assert model.notices == ("'test_vit' runs on random weights.", f"'{name}' runs on random weights.")
    before = digest(model.towers)
    trained = dict(pair for group in parameter_groups(model).values() for pair in group)
    optimizer = torch.optim.SGD(trained.values(), lr=1e-4)
    batch = make_batch(model)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model.loss(model(batch), batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in trained.values())
    assert any(float(p.grad.abs().max()) > 0 for key, p in trained.items() if ".audio" in key or "align" in key)
    assert losses[1] < losses[0]
    assert digest(model.towers) == before
    assert all(parameter.grad is None for parameter in model.towers.parameters())


def test_without_parts_it_is_the_plain_encoder(name: str) -> None:
    model = make(name)
    batch = make_batch(model)
    found, plain = model.features(batch).audio, model.plain("audio", batch)
    assert found is not None
    assert torch.equal(found.tokens, plain.tokens)
    assert found.pooled.shape == (2, 2, 32)
    assert [tuple(one.shape) for one in found.maps] == [(4, 32, 1, 49)] * 4


def test_segments_do_not_hear_each_other(name: str) -> None:
    model = make(name, segments=3)
    batch = make_batch(model)
    assert batch.waveform is not None
    before = model.features(batch).audio
    batch.waveform[1, -16000:] = 0
    after = model.features(batch).audio
    assert before is not None
    assert after is not None
    same = torch.isclose(before.pooled, after.pooled, rtol=0, atol=1e-6).all(-1)
    # The last window of the second clip; the one before it ends ahead of the last second.
    assert same.tolist() == [[True] * 3, [True, True, False]]


def test_a_block_with_rows_is_one_graph() -> None:
    model = make("test_wav2vec2", ("copl.rows",), COPL[:1])
    x = tokens_for(model)
    made = capture(model.steps[0], x).output[0]
    expected = model.steps[0](dict(x), {})[0]
    torch.testing.assert_close(made["audio"], expected["audio"])


class TrainedNorm(Prompt):
    """Trains the norm behind the last block."""

    chosen = "norm"

    def backbone_parts(self) -> dict[str, tuple[str, ...]]:
        return {"audio": (self.chosen,)}


class TrainedEntry(TrainedNorm):
    """Trains the norm before the first block."""

    chosen = "enter"


@pytest.mark.parametrize("part", [TrainedNorm, TrainedEntry])
def test_norms_outside_the_blocks_may_be_trained(name: str, part: type[TrainedNorm]) -> None:
    if name.endswith("prenorm") and part is TrainedEntry:
        with pytest.raises(AVCoreError, match=r"wants to train 'enter' .* This backbone offers: norm"):
            make(name, prompts={"mine": part}, sets=("parts.mine.streams=audio",))
        return
    model = make(name, prompts={"mine": part}, sets=("parts.mine.streams=audio",))
    ((key, parameter), *_) = parameter_groups(model)["parts"]
    assert (key, parameter.shape) == (f"mine.audio.backbone.audio.{part.chosen}.weight", (32,))
    batch = make_batch(model)
    plain = model.plain("audio", batch).tokens
    torch.testing.assert_close(model.features(batch).stream("audio").tokens, plain, rtol=0, atol=1e-6)
    parameter.data[0] += 1
    assert (model.features(batch).stream("audio").tokens - plain).abs().max() > 0.01
    torch.testing.assert_close(model.plain("audio", batch).tokens, plain, rtol=0, atol=0)


def test_pictures_are_refused() -> None:
    with pytest.raises(AVCoreError, match="'test_wav2vec2' serves the audio stream only"):
        make_model(avcore_wav2vec2, "test_wav2vec2")


def test_a_data_set_with_longer_windows_says_what_to_set() -> None:
    sets = ("data.window_seconds=1.5", "data.window_margin=1.5")
    with pytest.raises(AVCoreError, match=r"--set audio\.seconds=1\.5"):
        make("test_wav2vec2", sets=sets)
    assert make("test_wav2vec2", sets=(*sets, "audio.seconds=1.5")).towers["audio"].layout.stages[0].tokens == 74
