"""The conformance kit of avcore on this plugin."""

from collections.abc import Callable

from avcore.testing import parametrize_with_checks


@parametrize_with_checks("avcore-molt")
def test_conforms(check: Callable[[], None]) -> None:
    check()
