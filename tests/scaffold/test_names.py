from collections.abc import Callable
from typing import Any

import pytest

from avcore.errors import AVCoreError
from avcore.registry import Registry
from avcore.scaffold import LONGEST, Names, check_free, make_names
from avcore.specs import BackboneSpec, PromptSpec


@pytest.mark.parametrize("text", ["my-method", "my_method", "avcore-my-method", "avcore_my_method", "My-Method"])
def test_every_way_to_write_a_name_means_the_same(text: str) -> None:
    assert make_names(text) == Names(distribution="avcore-my-method", package="avcore_my_method", name="my_method")


def test_only_the_beginning_is_a_prefix() -> None:
    assert make_names("my-avcore-thing").distribution == "avcore-my-avcore-thing"


@pytest.mark.parametrize(
    "text", ["", "-", "avcore-", "1st", "a--b", "a_", "_a", "a b", "a.b", "a/b", "../a", "é", "$name", "a\n"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(AVCoreError, match="is no name for a plugin: use letters"):
        make_names(text)


@pytest.mark.parametrize("text", ["class", "avcore-import", "None", "none", "True"])
def test_names_that_others_keep_are_refused(text: str) -> None:
    with pytest.raises(AVCoreError, match="keeps"):
        make_names(text)


def test_long_names_are_refused() -> None:
    assert make_names("a" * LONGEST).name == "a" * LONGEST
    with pytest.raises(AVCoreError, match=f"{LONGEST} characters at most"):
        make_names("a" * (LONGEST + 1))


def test_names_that_are_taken_are_refused_with_who_has_them(make_plugin: Callable[..., Any]) -> None:
    plugin = make_plugin(
        prompts=[PromptSpec(name="rows", build="toy.m:Rows")],
        backbones=[BackboneSpec(name="toyvit", build="toy.vit:build", presets={"toy_tiny": {}})],
    )
    registry = Registry.from_modules({"toy-m": plugin})
    with pytest.raises(AVCoreError, match="'rows' is taken: toy-m offers it among its prompts"):
        check_free(make_names("rows"), registry)
    with pytest.raises(AVCoreError, match="'toy_tiny' is taken: toy-m offers it among its backbones"):
        check_free(make_names("toy-tiny"), registry)
    check_free(make_names("other-rows"), registry)


def test_an_installed_distribution_of_that_name_is_refused(make_plugin: Callable[..., Any]) -> None:
    with pytest.raises(AVCoreError, match=r"'avcore-timm' is installed already, version 0\.1"):
        check_free(make_names("timm"), Registry.from_modules({}))
