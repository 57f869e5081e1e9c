"""A small CLAP of transformers with every weight random, and avcore's towers on files of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from avcore import compat
from avcore.backbones import Tower
from avcore_clap.settings import ClapSettings, ClapTextSettings
from avcore_clap.sound import build as build_sound
from avcore_clap.text import build as build_text

SOUND: dict[str, Any] = {
    **{"width": 16, "depths": (2, 2, 1), "heads": (1, 2, 4), "window": 4, "side": 64, "shared": 12, "mel_bins": 32},
    **{"rate": 48000, "hop": 480, "low_hz": 50.0, "high_hz": 14000.0, "filters": "slaney", "seconds": 1.0},
}
TEXT: dict[str, Any] = {
    **{"width": 16, "depth": 3, "heads": 2, "vocabulary": 64, "positions": 34, "length": 12, "eps": 1e-12},
    **{"shared": 12, "tokenizer": "words"},
}


def configuration(*, fusion: bool = False) -> Any:
    """Of transformers, in the sizes above."""
    from transformers import ClapConfig

    audio = {
        **{"window_size": 4, "num_mel_bins": 32, "spec_size": 64, "patch_embeds_hidden_size": 16, "hidden_size": 64},
        **{"depths": [2, 2, 1], "num_attention_heads": [1, 2, 4], "projection_dim": 12, "num_hidden_layers": 3},
    }
    if fusion:
        audio |= {"enable_fusion": True, "fusion_type": "aff_2d"}
    text = {
        **{"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2},
        **{"intermediate_size": 64, "max_position_embeddings": 34, "projection_dim": 12},
    }
    return ClapConfig(audio_config=audio, text_config=text, projection_dim=12)


def clap(*, fusion: bool = False) -> Any:
    """transformers' model in float64, every weight and running statistic random."""
    from transformers import ClapModel

    compat.install()
    torch.manual_seed(0)
    model = ClapModel(configuration(fusion=fusion)).eval().double()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.1)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model


@contextmanager
def exact() -> Iterator[None]:
    """Within it transformers' attention of sentences takes the softmax in the type of its input, not in float32."""
    softmax = torch.nn.functional.softmax
    with mock.patch("torch.nn.functional.softmax", lambda x, dim=-1, dtype=None: softmax(x, dim=dim)):
        yield


@contextmanager
def double() -> Iterator[None]:
    """What is made within is in float64 from the start, so that a file's weights are not rounded."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def sound(weights: Any = "random", preset: Mapping[str, Any] = SOUND, **given: Any) -> Any:
    """The tower of sound in float64."""
    settings = ClapSettings(weights=str(weights), **given)
    with double():
        return build_sound(settings, name="small", preset=preset).tower("audio", settings, 1)


def text(weights: Any = "random", preset: Mapping[str, Any] = TEXT, **given: Any) -> Any:
    """The tower of sentences in float64."""
    settings = ClapTextSettings(weights=str(weights), **given)
    with double():
        return build_text(settings, name="small", preset=preset).tower("text", settings, 1)


def through(tower: Tower, x: Tensor, ids: Tensor | None = None) -> Tensor:
    """Embedded tokens to normed ones."""
    given = {} if ids is None else {"bias_HNN": tower.key_bias(ids)}  # type: ignore[attr-defined]
    x = tower.enter(x)
    for layout in tower.layout.blocks:
        if layout.stage and layout.index == sum(stage.depth for stage in tower.layout.stages[: layout.stage]):
            x = tower.merge(x, layout.stage)
        block: Any = tower.block(layout.index)
        x = block.after_sum("attention", x + block.attention(x, **given)[0])
        x = block.after_sum("mlp", x + block.mlp(x))
    return tower.norm(x)
