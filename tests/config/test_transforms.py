"""``train.augment``: which lists are taken, and how a mistake in one is told."""

import subprocess
import sys
from typing import Any

import pytest

from avcore.config import Resolved, core_schema, resolve_config
from avcore.config.transforms import MOVING, NESTING, PICTURES, POLICIES, SHADING
from avcore.errors import ConfigError
from avcore.registry import Registry


def resolved(registry: Registry, *sets: str) -> Resolved:
    return resolve_config(registry, method="m", task="seg", sets=sets)


def test_a_list_is_kept_as_it_was_written_and_can_be_read_again(fake_registry: Registry, tmp_path: Any) -> None:
    found = resolved(
        fake_registry,
        "train.augment.visual=[{name: RandomHorizontalFlip, p: 0.5}, {name: ColorJitter, brightness: 0.4}]",
        "train.augment.audio=[{name: FrequencyMasking, freq_mask_param: 24}]",
    )
    augment = found.config.train.augment
    assert augment.visual == ({"name": "RandomHorizontalFlip", "p": 0.5}, {"name": "ColorJitter", "brightness": 0.4})
    assert augment.audio == ({"name": "FrequencyMasking", "freq_mask_param": 24},)
    file = tmp_path / "config.yaml"
    file.write_text(found.yaml())
    assert resolve_config(fake_registry, file=file).config.train.augment == augment


def test_an_empty_list_takes_away_that_of_a_recipe(fake_registry: Registry) -> None:
    found = resolved(fake_registry, "train.augment.visual=[{name: Grayscale}]", "train.augment.visual=[]")
    assert found.config.train.augment.visual == ()


# What is listed, and the beginning of the message behind "train.augment.".
REFUSED = {
    "visual=[{name: RandomHorizontalFlpi}]": r"visual\[0\]\.name: .*mean 'RandomHorizontalFlip'\? They are AugMix",
    "visual=[{name: os.system}]": r"visual\[0\]\.name: 'os\.system' is none of the transforms",
    "visual=[{name: Lambda}]": r"visual\[0\]\.name: 'Lambda' is none of the transforms",
    "visual=[{name: CutMix}]": r"visual\[0\]\.name: 'CutMix' is none of the transforms",
    "visual=[{p: 0.5}]": r"visual\[0\] must be \{name: NAME\} with its parameters, not \{'p': 0.5\}",
    "visual=[{name: Grayscale}, {name: RandomHorizontalFlip, p: 3}]": r"visual\[1\]\.p does not fit RandomHorizontalF",
    "visual=[{name: RandomHorizontalFlip, p: often}]": r"visual\[0\]\.p must be a number, not 'often'",
    "visual=[{name: RandomHorizontalFlip, q: 1}]": r"visual\[0\]\.q: .* has no parameter 'q'\. It takes p",
    "visual=[{name: ColorJitter, brightnes: 1}]": r"visual\[0\]\.brightnes: .* Did you mean 'brightness'\?",
    "visual=[{name: ColorJitter, brightness: 0.3, hue: 4}]": r"visual\[0\]\.hue does not fit ColorJitter",
    "visual=[{name: RandomErasing, inplace: true}]": r"visual\[0\]\.inplace: RandomErasing has no parameter",
    "visual=[{name: RandomErasing, value: random}]": r"visual\[0\]\.value must be a number",
    "visual=[{name: RandomAffine, degrees: x}]": r"visual\[0\]\.degrees does not fit RandomAffine",
    "visual=[{name: RandomAffine, degrees: 5, interpolation: cubic}]": r"visual\[0\]\.interpolation must be one of",
    "visual=[{name: GaussianBlur}]": r"visual\[0\]: GaussianBlur needs kernel_size",
    "visual=[{name: RandomApply, transforms: 3}]": r"visual\[0\]\.transforms must be a list of transforms",
    "visual=[{name: RandomApply, transforms: [{name: Grey}]}]": r"visual\[0\]\.transforms\[0\]\.name: 'Grey'",
    "audio=[{name: TimeMask}]": r"audio\[0\]\.name: .*mean 'TimeMasking'\? They are FrequencyMasking",
    "audio=[{name: FrequencyMasking, freq_mask_param: -3}]": r"audio\[0\]\.freq_mask_param must be 0 or more",
    "audio=[{name: FrequencyMasking, freq_mask_param: 2.5}]": r"audio\[0\]\.freq_mask_param must be a whole number",
    "audio=[{name: FrequencyMasking, freq_mask_param: [3]}]": r"audio\[0\] fails on log-mel pictures",
    "audio=[{name: TimeMasking, time_mask_param: 3, p: 4}]": r"audio\[0\]\.p does not fit TimeMasking",
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_mistake_is_told_with_its_place_and_layer(fake_registry: Registry, given: str) -> None:
    with pytest.raises(ConfigError, match=rf"^train\.augment\.{REFUSED[given]}") as refused:
        resolved(fake_registry, f"train.augment.{given}")
    assert str(refused.value).endswith(f"(--set train.augment.{given}).")


def test_an_unknown_stream_is_no_key(fake_registry: Registry) -> None:
    with pytest.raises(
        ConfigError, match=r"Unknown key 'train\.augment\.visul'.*Did you mean 'train\.augment\.visual'"
    ):
        resolved(fake_registry, "train.augment.visul=[]")


def test_every_name_is_of_one_kind() -> None:
    assert len(PICTURES) == sum(map(len, (MOVING, SHADING, POLICIES, NESTING)))


def test_the_schema_and_the_help_know_the_lists() -> None:
    augment = core_schema()["properties"]["train"]["properties"]["augment"]
    assert augment["properties"]["visual"]["type"] == "array"
    assert "torchvision.transforms.v2" in augment["properties"]["visual"]["description"]
    assert "log-mel" in augment["properties"]["audio"]["description"]


def test_without_a_list_neither_torch_nor_torchvision_is_imported() -> None:
    code = (
        "import sys; from avcore.config import RunConfig; from avcore.config.records import TrainConfig; TrainConfig();"
    )
    found = subprocess.run(
        [sys.executable, "-c", f"{code} print(sorted({{'torch', 'torchvision', 'torchaudio'}} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
