"""CLAP's tower of sound (arXiv:2211.06687): avcore's HTS-AT with the map into the space shared with sentences."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from avcore.backbones import Tower
from avcore.errors import AVCoreError
from avcore.specs import StreamLayout, Windows
from avcore_clap.mel import ClapGeometry
from avcore_clap.settings import ClapSettings
from avcore_clap.weights import fill, projection, sound_keys
from avcore_timm.htsat import HTSAT, HTSATTower, make_body, named

__all__ = ["ClapSound", "ClapSoundTower", "build"]


def build(settings: ClapSettings, *, name: str, preset: Mapping[str, Any] | None) -> "ClapSound":
    """Make a tower of sound, weights loaded as ``settings.weights`` says.

    28,190,872 frozen parameters at the published size, 656,384 of them the projection's.

    Args:
        settings: of the audio stream.
        name: what the user wrote.
        preset: as HTS-AT's; further ``rate`` in Hz, ``hop`` in samples, ``low_hz``, ``high_hz``, ``filters`` (see
            `ClapGeometry`), ``shared``, the width of the common space, and where there is one ``hub``, a repository.

    Raises:
        AVCoreError: there is no such model, or the weights cannot be had or do not fit.
    """
    if preset is None:
        raise AVCoreError(f"'{name}' has no sizes: choose a preset ('avcore plugins show clap').")
    model, bands = make_body(preset)
    widest = preset["width"] * 2 ** (len(preset["depths"]) - 1)
    maps = projection(widest, preset["shared"]) if settings.projection else None
    own = named(bands, model)
    if maps is not None:
        own |= {f"projection.{key}": tensor for key, tensor in maps.state_dict(keep_vars=True).items()}
    notices = fill(
        own,
        str(settings.weights),
        name=name,
        stream="audio",
        hub=preset.get("hub"),
        rename=sound_keys,
        fused=preset["filters"] == "htk",
    )
    return ClapSound(model, bands, maps, name=name, preset=preset, notices=notices, attention=settings.attention)


class ClapSound(HTSAT):
    """An HTS-AT, and the map of what it pools into the common space; None where that was not asked for."""

    def __init__(self, model: Any, bands: Any, maps: nn.Module | None, **given: Any) -> None:
        super().__init__(model, bands, **given)
        self.projection = maps
        self.freeze()

    def mel(self, seconds: float) -> ClapGeometry:
        """See `HTSAT.mel`."""
        found = {key: self.preset[key] for key in ("mel_bins", "rate", "hop", "low_hz", "high_hz", "filters")}
        return ClapGeometry(**found, repeat_seconds=seconds)

    def layout(self, segments: int) -> StreamLayout:
        """See `Swin.layout`."""
        shared = None if self.projection is None else self.preset["shared"]
        return replace(super().layout(segments), shared=shared)

    def tower(self, stream: str, settings: ClapSettings, segments: int, windows: Windows | None = None) -> Tower:  # type: ignore[override]
        """See `Backbone.tower`; for ``audio`` only."""
        return ClapSoundTower(self, settings, segments).freeze()


class ClapSoundTower(HTSATTower):
    """Log-mel spectrograms in dB through HTS-AT."""

    trunk: ClapSound

    def weights(self) -> Mapping[str, Tensor]:
        """HTS-AT's names, and ``projection.``."""
        maps = self.trunk.projection
        own = {} if maps is None else maps.state_dict(keep_vars=True)
        return {**super().weights(), **{f"projection.{key}": tensor for key, tensor in own.items()}}

    def project(self, pooled_MD: Tensor) -> Tensor:
        """See `Tower.project`."""
        maps = self.trunk.projection
        if maps is None:
            return super().project(pooled_MD)
        out: Tensor = maps(pooled_MD)
        return out
