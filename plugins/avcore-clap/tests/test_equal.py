"""Both towers equal transformers' ``ClapModel`` on the same weights, and so do the logits between them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from claps import SOUND, clap, exact, sound, text, through
from safetensors.torch import save_file
from torch import Tensor

from avcore_clap import SOUND_PRESETS, TEXT_PRESETS
from avcore_clap.settings import ClapSettings, ClapTextSettings
from avcore_clap.sound import build as build_sound
from avcore_clap.text import build as build_text
from avcore_clap.tokenizer import END, PAD
from avcore_clap.weights import sound_keys, text_keys

SHORT, LONG, WHOLE = [0, 5, 6, END], [0, 9, 8, 30, 63, 7, END], [0, *range(10, 20), END]
IDS = torch.tensor([[*ids, *[PAD] * (12 - len(ids))] for ids in (SHORT, LONG, WHOLE)])
MASK = (IDS != PAD).long()


def decibels(frames: int = 101) -> Tensor:
    return torch.randn(3, frames, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 20 - 40


def pooled(tower: Any, given: Tensor, *ids: Tensor) -> Tensor:
    found: Tensor = tower.pool(through(tower, tower.embed(given), *ids), *ids)
    return found


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frames", [101, 128, 37])
def test_the_tower_of_sound(reference: Any, saved: Path, frames: int) -> None:
    expected = reference.audio_model(input_features=decibels(frames)[:, None]).pooler_output
    assert expected.abs().max() > 0.1
    close(pooled(sound(saved), decibels(frames)), expected)


def test_the_tower_of_sentences(reference: Any, saved: Path) -> None:
    with exact():
        expected = reference.text_model(input_ids=IDS, attention_mask=MASK).pooler_output
    assert expected.abs().max() > 0.1
    tower = text(saved)
    close(pooled(tower, IDS, IDS), expected)
    # As it is, transformers rounds the softmax to float32.
    rounded = reference.text_model(input_ids=IDS, attention_mask=MASK).pooler_output
    assert 1e-11 < (rounded - expected).abs().max() < 1e-6


def test_the_projections_and_the_logits(reference: Any, saved: Path) -> None:
    with exact():
        expected = reference(input_ids=IDS, attention_mask=MASK, input_features=decibels()[:, None])
    hears, reads = sound(saved), text(saved)
    heard = F.normalize(hears.project(pooled(hears, decibels())), dim=-1)
    read = F.normalize(reads.project(pooled(reads, IDS, IDS)), dim=-1)
    close(heard, expected.audio_embeds)
    close(read, expected.text_embeds)
    close(reference.logit_scale_a.exp() * heard @ read.T, expected.logits_per_audio)
    close(reference.logit_scale_t.exp() * read @ heard.T, expected.logits_per_text)


def test_what_fills_a_sentence_up_and_its_neighbours_change_nothing(saved: Path) -> None:
    tower = text(saved)
    alone = torch.tensor([SHORT])
    close(pooled(tower, alone, alone)[0], pooled(tower, IDS, IDS)[0])


def test_models_with_fusion_hear_a_segment_as_it_is(tmp_path: Path) -> None:
    """What is not longer than 10 s passes no layer of fusion, in transformers too."""
    model, file = clap(fusion=True), tmp_path / "fused.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, file)
    tower = sound(file, preset={**SOUND, "filters": "htk"})
    four = decibels()[:, None].expand(-1, 4, -1, -1)
    expected = model.audio_model(input_features=four, is_longer=torch.zeros(3, 1, dtype=torch.bool)).pooler_output
    close(pooled(tower, decibels()), expected)


def test_the_published_sizes() -> None:
    from transformers import ClapConfig, ClapModel

    with torch.device("meta"):
        theirs = ClapModel(ClapConfig())
        hears = build_sound(ClapSettings(), name="clap_unfused", preset=SOUND_PRESETS["clap_unfused"])
        reads = build_text(ClapTextSettings(), name="clap_text_unfused", preset=TEXT_PRESETS["clap_text_unfused"])
        towers = (hears.tower("audio", ClapSettings(), 1), reads.tower("text", ClapTextSettings(), 1))
        for tower, keys in zip(towers, (sound_keys, text_keys), strict=True):
            found = keys(theirs.state_dict())
            assert {key: tensor.shape for key, tensor in found.items()} == {
                key: tensor.shape for key, tensor in tower.weights().items()
            }
    counts = [sum(one.numel() for one in tower.parameters()) for tower in towers]
    assert counts == [28_190_872, 125_302_016]
    assert sum(counts) + 2 == sum(one.numel() for one in theirs.parameters())  # two scales of the logits
    assert [tower.layout.shared for tower in towers] == [512, 512]
    assert towers[0].layout.width == towers[1].layout.width == 768
