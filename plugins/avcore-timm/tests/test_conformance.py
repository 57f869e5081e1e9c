"""The conformance kit of avcore on this plugin."""

from collections.abc import Callable

from avcore.testing import parametrize_with_checks

SETS = {"vit": ["visual.backbone=test_vit", "audio.frames=48", "audio.mel_bins=32"]}


@parametrize_with_checks("avcore-timm", sets=SETS)
def test_conforms(check: Callable[[], None]) -> None:
    check()
