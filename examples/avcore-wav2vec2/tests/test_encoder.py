"""Tower and blocks against torchaudio's own encoder, in float64, on both architectures."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore import AVCoreError
from avcore.testing import assert_close
from avcore_wav2vec2 import PRESETS
from avcore_wav2vec2.settings import Wav2Vec2Settings
from avcore_wav2vec2.trunk import Wav2Vec2, Wav2Vec2Tower, build

SETTINGS = Wav2Vec2Settings(weights="random")
Make = Callable[..., Wav2Vec2]


def tower_of(backbone: Wav2Vec2, settings: Wav2Vec2Settings = SETTINGS) -> Wav2Vec2Tower:
    made = backbone.tower("audio", settings, segments=2)
    assert isinstance(made, Wav2Vec2Tower)
    return made


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def through(block: Any, x: Tensor, out: Tensor, **given: Any) -> Tensor:
    """The block, with that increment of its attention."""
    x = block.after_sum("attention", x + out)
    made: Tensor = block.after_sum("mlp", x + block.mlp(x, **given))
    return made


def test_every_block_equals_torchaudio(make: Make, name: str) -> None:
    backbone = make(name).double()
    tower = tower_of(backbone)
    samples_MS = torch.randn(3, 16000).double()
    theirs = copy.deepcopy(backbone.model)
    transformer = theirs.encoder.transformer
    transformer.layers = nn.ModuleList(block.inner for block in transformer.layers)
    expected, _ = theirs.extract_features(samples_MS)
    x = tower.enter(tower.embed(samples_MS))
    for index in range(tower.layout.depth):
        x = tower.block(index)(x)
        if index < tower.layout.depth - 1 or backbone.pre_norm:
            close(x, expected[index])
    tokens = tower.norm(x)
    close(tokens, theirs(samples_MS)[0])
    if not backbone.pre_norm:
        # The norm that ends the last layer is the tower's.
        close(tokens, expected[-1])
    close(tower.pool(tokens), tokens.mean(1))


@pytest.fixture
def at_a_block(make: Make, name: str) -> tuple[Any, Any, Tensor, Tensor]:
    """A block, torchaudio's layer, tokens and rows."""
    backbone = make(name).double()
    block = tower_of(backbone).block(1)
    return block, block.inner, torch.randn(2, 7, 32).double(), torch.randn(3, 32).double()


def test_rows_are_keys_and_values_among_the_tokens(at_a_block: tuple[Any, Any, Tensor, Tensor]) -> None:
    block, layer, x_MND, rows_RD = at_a_block
    expected, _ = layer(torch.cat([x_MND, rows_RD.expand(2, -1, -1)], dim=1))
    for rows in (rows_RD, rows_RD.expand(2, -1, -1)):
        out, carried = block.attention(x_MND, rows=rows)
        assert carried is None
        close(through(block, x_MND, out), expected[:, :7])


def test_carried_rows_flow_beside_the_tokens(at_a_block: tuple[Any, Any, Tensor, Tensor]) -> None:
    block, layer, x_MND, rows_RD = at_a_block
    carry = rows_RD.expand(2, -1, -1)
    expected, _ = layer(torch.cat([x_MND, carry], dim=1))
    out, carried = block.attention(x_MND, carry=carry)
    close(through(block, carry, carried), expected[:, 7:])
    close(through(block, x_MND, out), expected[:, :7])


def test_keys_and_values_are_used_as_they_are(at_a_block: tuple[Any, Any, Tensor, Tensor]) -> None:
    block, layer, x_MND, rows_RD = at_a_block
    normed = layer.layer_norm(rows_RD) if block.pre_norm else rows_RD
    expected, _ = block.attention(x_MND, rows=rows_RD)
    out, _ = block.attention(x_MND, kv=block.keys_values(normed))
    close(out, expected)
    both, _ = block.attention(x_MND, rows=rows_RD[:1], kv=block.keys_values(normed[1:]))
    close(both, expected)


def test_a_bias_can_hide_rows(at_a_block: tuple[Any, Any, Tensor, Tensor]) -> None:
    block, _, x_MND, rows_RD = at_a_block
    hidden, _ = block.attention(x_MND, rows=rows_RD, row_bias_R=torch.tensor([0.0, -1e9, -1e9]).double())
    one, _ = block.attention(x_MND, rows=rows_RD[:1])
    close(hidden, one)


def test_projections_are_increments_of_the_frozen_maps(at_a_block: tuple[Any, Any, Tensor, Tensor]) -> None:
    """As a layer whose weights hold the increments; rows pass through the changed maps too."""
    block, layer, x_MND, rows_RD = at_a_block
    attn, mlp = layer.attention, layer.feed_forward
    maps = {
        "qkv": (attn.q_proj, attn.k_proj, attn.v_proj),
        "proj": (attn.out_proj,),
        "fc1": (mlp.intermediate_dense,),
        "fc2": (mlp.output_dense,),
    }
    added = {name: [torch.randn_like(one.weight) * 0.1 for one in layers] for name, layers in maps.items()}

    def project(name: str, x: Tensor) -> Tensor:
        return torch.cat([x @ weight.T for weight in added[name]], dim=-1)

    out, _ = block.attention(x_MND, rows=rows_RD, project=project)
    found = through(block, x_MND, out, project=project)
    for name, layers in maps.items():
        for one, weight in zip(layers, added[name], strict=True):
            one.weight.data += weight
    expected, _ = layer(torch.cat([x_MND, rows_RD.expand(2, -1, -1)], dim=1))
    close(found, expected[:, :7])


@pytest.mark.parametrize(
    ("preset", "model", "normalised"),
    [
        ("wav2vec2_base", "wav2vec2_base", False),
        ("wav2vec2_large", "wav2vec2_large", False),
        ("wav2vec2_large_lv60k", "wav2vec2_large_lv60k", True),
        ("hubert_base", "hubert_base", False),
        ("hubert_large", "hubert_large", True),
    ],
)
def test_published_sizes_are_torchaudios(preset: str, model: str, normalised: bool) -> None:
    import torchaudio

    bundle = getattr(torchaudio.pipelines, model.upper())
    with torch.device("meta"):
        backbone = build(Wav2Vec2Settings(), name=preset, preset=PRESETS[preset])
        tower = tower_of(backbone)
        theirs = getattr(torchaudio.models, model)()
        assert tower.embed(torch.zeros(1, 16000)).shape[1] == tower.layout.stages[0].tokens == 49
    convolution = "encoder.transformer.pos_conv_embed.conv."
    expected = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith(convolution)}
    found = {key: value.shape for key, value in tower.weights().items() if not key.startswith(convolution)}
    assert found == expected
    assert len(theirs.encoder.transformer.layers) == tower.layout.depth
    assert theirs.encoder.transformer.layers[0].attention.num_heads == tower.layout.stages[0].heads
    assert theirs.encoder.transformer.layers[0].layer_norm_first == backbone.pre_norm
    assert tower.geometry.normalise == normalised == bundle._normalize_waveform
    assert PRESETS[preset]["file"] == bundle._path
    assert tower.layout.taps[-1] == tower.layout.depth - 1


def test_longer_sound_makes_more_tokens_and_too_little_is_refused(make: Make) -> None:
    backbone = make("test_wav2vec2")
    tower = tower_of(backbone, Wav2Vec2Settings(seconds=1.95))
    assert tower.layout.stages[0].grid == (1, 97)
    assert tower.embed(torch.zeros(1, tower.geometry.samples)).shape == (1, 97, 32)
    with pytest.raises(AVCoreError, match=r"0\.02 s of sound are too short for a token .* raise audio\.seconds"):
        tower_of(backbone, Wav2Vec2Settings(seconds=0.02))
    with pytest.raises(ValueError, match="seconds must be above 0"):
        Wav2Vec2Settings(seconds=0.0)


def test_half_precision_stays_near(make: Make, name: str) -> None:
    backbone = make(name)
    samples_MS = torch.randn(2, 16000) * 0.1
    tower = tower_of(backbone)

    def run() -> Tensor:
        x = tower.enter(tower.embed(samples_MS))
        for index in range(tower.layout.depth):
            x = x + tower.block(index).attention(x)[0]
            x = x + tower.block(index).mlp(x)
        return tower.norm(x)

    exact = run()
    backbone.to(torch.bfloat16)
    half = run()
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), exact, 0.05)
