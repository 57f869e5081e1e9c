"""The conformance kit of avcore, on both architectures."""

from collections.abc import Callable

from avcore.testing import parametrize_with_checks


@parametrize_with_checks("avcore-wav2vec2")
def test_conforms(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("avcore-wav2vec2", sets={"wav2vec2": ["audio.backbone=test_wav2vec2_prenorm"]})
def test_pre_norm_conforms(check: Callable[[], None]) -> None:
    check()
