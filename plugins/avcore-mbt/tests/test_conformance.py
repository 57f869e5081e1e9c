"""What every plugin has to fulfil."""

from collections.abc import Callable

from avcore.testing import parametrize_with_checks


@parametrize_with_checks("avcore-mbt")
def test_conforms(check: Callable[[], None]) -> None:
    check()
