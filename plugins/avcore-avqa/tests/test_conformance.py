"""The conformance kit of avcore on this plugin, on a handful of questions in MUSIC-AVQA's layout."""

from collections.abc import Callable

from avqa_files import make_files

from avcore.testing import parametrize_with_checks


@parametrize_with_checks("avcore-avqa", data={"music-avqa": make_files})
def test_conforms(check: Callable[[], None]) -> None:
    check()
