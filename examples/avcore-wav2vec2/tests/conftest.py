"""Small encoders of both architectures, every weight moved from where torchaudio starts it."""

from collections.abc import Callable

import pytest
import torch

from avcore_wav2vec2 import PRESETS
from avcore_wav2vec2.settings import Wav2Vec2Settings
from avcore_wav2vec2.trunk import Wav2Vec2, build


@pytest.fixture(params=["test_wav2vec2", "test_wav2vec2_prenorm"])
def name(request: pytest.FixtureRequest) -> str:
    """A small preset with norms behind the sums, then one with norms before the sub-layers."""
    found: str = request.param
    return found


@pytest.fixture
def make() -> Callable[..., Wav2Vec2]:
    """Make the preset of a name."""

    def made(name: str, weights: str = "random") -> Wav2Vec2:
        torch.manual_seed(0)
        backbone = build(Wav2Vec2Settings(weights=weights), name=name, preset=PRESETS[name])
        if weights == "random":
            for parameter in backbone.parameters():
                parameter.data.add_(torch.randn_like(parameter) * 0.05)
        return backbone

    return made
