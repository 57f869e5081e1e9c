"""CLAP's towers of sound and of sentences. This module is light: it imports no torch."""

from collections.abc import Iterable, Mapping
from typing import Any

from avcore.hookspecs import hookimpl
from avcore.specs import TEXT, BackboneSpec
from avcore_clap.settings import ClapSettings, ClapTextSettings

# Of LAION's CLAP; those of a published model further say where the hub has it.
_SOUND: Mapping[str, Any] = {
    **{"width": 96, "depths": (2, 2, 6, 2), "heads": (4, 8, 16, 32), "window": 8, "side": 256, "shared": 512},
    **{"mel_bins": 64, "rate": 48000, "hop": 480, "low_hz": 50.0, "high_hz": 14000.0, "seconds": 10.0},
}
_LARGER = {**_SOUND, "width": 128, "depths": (2, 2, 12, 2)}
_ROBERTA: Mapping[str, Any] = {
    **{"width": 768, "depth": 12, "heads": 12, "vocabulary": 50265, "positions": 514, "length": 77, "eps": 1e-12},
    **{"shared": 512},
}
_HUB = {
    "unfused": "laion/clap-htsat-unfused",
    "fused": "laion/clap-htsat-fused",
    "larger_general": "laion/larger_clap_general",
    "larger_music": "laion/larger_clap_music",
}

SOUND_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "clap_unfused": {**_SOUND, "filters": "slaney", "hub": _HUB["unfused"]},
    "clap_fused": {**_SOUND, "filters": "htk", "hub": _HUB["fused"]},
    "clap_larger_general": {**_LARGER, "filters": "slaney", "hub": _HUB["larger_general"]},
    "clap_larger_music": {**_LARGER, "filters": "slaney", "hub": _HUB["larger_music"]},
    "test_clap": {
        **_SOUND,
        **{"width": 16, "depths": (1, 1, 2, 1), "heads": (1, 2, 2, 4), "window": 4, "side": 64, "shared": 12},
        **{"mel_bins": 32, "seconds": 1.0, "filters": "slaney"},
    },
}
TEXT_PRESETS: Mapping[str, Mapping[str, Any]] = {
    **{f"clap_text_{name}": {**_ROBERTA, "hub": repository} for name, repository in _HUB.items()},
    "test_clap_text": {
        **{"width": 16, "depth": 3, "heads": 2, "vocabulary": 64, "positions": 34, "length": 12, "eps": 1e-12},
        **{"shared": 12, "tokenizer": "words"},
    },
}


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    """A tower of sound and one of sentences for each CLAP; ``clap_X`` and ``clap_text_X`` share a space."""
    return [
        BackboneSpec(
            name="clap",
            build="avcore_clap.sound:build",
            config=ClapSettings,
            paper="arXiv:2211.06687",
            summary="CLAP's tower of sound: avcore's HTS-AT at 48 kHz with the map into the space shared with text",
            presets=SOUND_PRESETS,
            streams=("audio",),
            converter="avcore_clap.weights:sound_keys",
        ),
        BackboneSpec(
            name="clap_text",
            build="avcore_clap.text:build",
            config=ClapTextSettings,
            paper="arXiv:2211.06687",
            summary="CLAP's tower of sentences: RoBERTa with the map into the space shared with sound",
            presets=TEXT_PRESETS,
            streams=(TEXT,),
            converter="avcore_clap.weights:text_keys",
        ),
    ]
