"""wav2vec 2.0 and HuBERT as audio backbones. This module is light: it imports no torch and no torchaudio."""

from collections.abc import Iterable, Mapping
from typing import Any

from avcore import BackboneSpec, hookimpl
from avcore_wav2vec2.settings import Wav2Vec2Settings

_BASE = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072}
_LARGE = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}
_TEST = {"width": 32, "depth": 6, "heads": 4, "hidden": 64, "channels": 8, "position_kernel": 9, "position_groups": 4}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "wav2vec2_base": {**_BASE, "file": "wav2vec2_fairseq_base_ls960.pth"},
    "wav2vec2_large": {**_LARGE, "file": "wav2vec2_fairseq_large_ls960.pth"},
    "wav2vec2_large_lv60k": {**_LARGE, "file": "wav2vec2_fairseq_large_lv60k.pth", "pre_norm": True, "bias": True},
    "hubert_base": {**_BASE, "file": "hubert_fairseq_base_ls960.pth"},
    "hubert_large": {**_LARGE, "file": "hubert_fairseq_large_ll60k.pth", "pre_norm": True},
    "test_wav2vec2": _TEST,
    "test_wav2vec2_prenorm": {**_TEST, "pre_norm": True, "bias": True},
}
"""Sizes, the file that torchaudio publishes, and which architecture it is: see `avcore_wav2vec2.trunk.build`."""


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    """The family ``wav2vec2``, for sound."""
    return [
        BackboneSpec(
            name="wav2vec2",
            build="avcore_wav2vec2.trunk:build",
            config=Wav2Vec2Settings,
            paper="arXiv:2006.11477, arXiv:2106.07447",
            summary="wav2vec 2.0 and HuBERT of torchaudio, on the waveform itself",
            presets=PRESETS,
            streams=("audio",),
            converter="avcore_wav2vec2.weights:own_keys",
        )
    ]
