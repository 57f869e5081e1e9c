"""Towers are told the windows of sound that go with the segments."""

import math
from typing import Any

import pytest

from avcore.assemble import streams_of
from avcore.config import StreamConfig
from avcore.hookspecs import hookimpl
from avcore.registry import Registry
from avcore.specs import BackboneSpec, FilterBankGeometry, Windows
from avcore.testing.backbones import PATCH, ToyBackbone, ToyBackbones, ToySettings, ToyTower
from avcore.testing.toys import at_hand, make_batch, make_model

PRESETS = {spec.name: spec for spec in ToyBackbones().avcore_backbones()}["toy"].presets
SECONDS = 0.1
"""Of sound in a row of patches."""


class Moments(ToyTower):
    """As many rows of patches as a window of sound fills, one where no data set has said how long it is."""

    def __init__(self, trunk: ToyBackbone, stream: str, segments: int, windows: Windows | None) -> None:
        rows = PATCH * (1 if windows is None else math.ceil(windows.length / SECONDS - 1e-9))
        super().__init__(trunk, stream, ToySettings(frames=rows), segments)
        self.told = windows
        if stream == "audio":
            self.geometry = FilterBankGeometry(rate=8000, mel_bins=16, frames=rows, shift_ms=1000 * SECONDS / PATCH)


class Listener(ToyBackbone):
    def tower(self, stream: str, settings: Any, segments: int, windows: Windows | None = None) -> ToyTower:
        return Moments(self, stream, segments, windows).freeze()


class Plugin:
    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        def build(settings: Any, *, name: str, preset: Any) -> Listener:
            return Listener(name, **preset)

        listener = {"test_listener": PRESETS["toy_plain"]}
        return [at_hand(BackboneSpec, name="listener", thing=build, config=ToySettings, presets=listener)]


@pytest.mark.parametrize(("seconds", "rows"), [(0.3, 3), (0.85, 9)])
def test_the_tokens_of_a_tower_follow_from_the_length_of_the_windows(seconds: float, rows: int) -> None:
    sets = [f"data.window_seconds={seconds}", "data.window_margin=0.9"]
    model = make_model(Plugin(), "test_listener", sets=sets)
    assert {stream: model.towers[stream].told for stream in ("visual", "audio")} == dict.fromkeys(
        ("visual", "audio"), Windows(length=seconds, margin=0.9)
    )
    features = model.features(make_batch(model))
    assert features.stream("audio").maps[-1].shape == (4, 16, rows, 16 // PATCH)
    # The rows are filled with sound: what is padded would be alike at the end of every window.
    assert features.stream("audio").maps[0][:, :, -1].std(0).min() > 1e-3


def test_without_a_data_set_there_are_no_windows() -> None:
    registry = Registry.from_modules({"listener": Plugin()})
    own = StreamConfig(backbone="test_listener", settings=ToySettings())
    towers = streams_of(own, StreamConfig(), registry).towers
    assert {tower.told for tower in towers.values()} == {None}
    assert towers["audio"].layout.stages[0].grid == (1, 16 // PATCH)
