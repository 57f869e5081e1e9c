"""Classes as a setting: names, or a file that has them."""

from pathlib import Path

import pytest

import avcore_ave
import avcore_timm
from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.registry import Registry
from avcore_ave.annotations import CLASSES
from avcore_ave.config import AVEDataConfig, AVETaskConfig, LinearHeadConfig


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.from_modules({"avcore-timm": avcore_timm, "avcore-ave": avcore_ave})


def resolve(registry: Registry, *sets: str, **more: object):
    return resolve_config(
        registry, method="none", task="ave", visual="vit_tiny_patch16_224", sets=sets, need_data=False, **more
    )


def test_the_default_is_ave() -> None:
    config = AVETaskConfig()
    assert config.classes == CLASSES
    assert len(CLASSES) == len(set(CLASSES)) == config.background == 28
    assert (len(config.names), config.names[0], config.names[-1]) == (29, "Church bell", "background")


def test_the_files_bring_their_own_names(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "Annotations.txt").write_text("Dog, bark&a&good&0&1\nCat&b&good&0&1\nDog, bark&c&good&0&1\n")
    resolved = resolve(registry, f"data.root={tmp_path}", "data.dataset=ave")
    assert resolved.config.task_options.names == ("Dog, bark", "Cat", "background")
    assert resolved.origins["task_options.classes"] == f"files in {tmp_path}"
    again = resolve(registry, file=resolved.tree())
    assert again.config == resolved.config


def test_names_themselves_may_be_given(registry: Registry) -> None:
    resolved = resolve(registry, 'task_options.classes=["Dog, bark", Cat]')
    assert resolved.config.task_options.classes == ("Dog, bark", "Cat")


@pytest.mark.parametrize(
    ("value", "message"), [("29", "task_options.classes"), ("[]", "at least one"), ("[a, a]", "different names")]
)
def test_what_is_no_list_of_classes_is_refused(registry: Registry, value: str, message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        resolve(registry, f"task_options.classes={value}")


def test_ranges() -> None:
    with pytest.raises(ValueError, match="window_margin"):
        AVEDataConfig(window_seconds=1.0, window_margin=0.9)
    with pytest.raises(ValueError, match="segments"):
        AVEDataConfig(segments=0)
    with pytest.raises(ValueError, match="dropout"):
        LinearHeadConfig(dropout=1.0)
    with pytest.raises(ValueError, match="hidden"):
        LinearHeadConfig(hidden=0)
    with pytest.raises(ValueError, match="paper_batch"):
        AVETaskConfig(paper_batch=0)
