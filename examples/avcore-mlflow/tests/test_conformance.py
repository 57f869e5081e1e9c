"""The conformance kit of avcore."""

from collections.abc import Callable

from avcore.testing import parametrize_with_checks


@parametrize_with_checks("avcore-mlflow")
def test_conforms(check: Callable[[], None]) -> None:
    check()
