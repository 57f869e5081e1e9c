"""The conformance kit of avcore on this plugin, on a handful of clips in LLP's layout."""

from collections.abc import Callable

from llp_files import make_features, make_files

from avcore.testing import parametrize_with_checks


@parametrize_with_checks("avcore-avvp", data={"llp": make_files, "llp-features": make_features})
def test_conforms(check: Callable[[], None]) -> None:
    check()
