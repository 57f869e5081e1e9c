"""Checks of the settings of whatever a plugin offers."""

import dataclasses
import inspect
import json
from typing import Any

from omegaconf import OmegaConf

from avcore.config import describe, plain
from avcore.config.leaves import Layer, Leaf, flatten
from avcore.config.settings import build
from avcore.errors import AVCoreError
from avcore.runs.start import run
from avcore.specs import DatasetSpec, TaskSpec
from avcore.testing.cases import SettingsCase
from avcore.testing.checks import check, refusal

TAKEN = {
    *(name.replace("_", "-") for name in inspect.signature(run).parameters),
    *("plugin", "fusion", "from", "json", "yaml", "help", "no-shapley", "no-baseline", "no-trivial", "directory"),
    *("also", "clips", "steps", "warmup", "evaluation", "no-evaluation", "fit", "batches"),  # of avcore bench
}
"""The options of avcore's own commands, without their dashes."""


@check("settings", "documented")
def documented(case: SettingsCase) -> None:
    """There is a summary of one line, and every setting says what it is."""
    spec = case.spec
    assert spec.summary, f"'{spec.name}' has no summary: 'avcore plugins list' shows one line of it."
    assert "\n" not in spec.summary, f"The summary of '{spec.name}' has several lines; give it one."
    silent = [setting.name for setting in describe(spec.config) if not setting.help]
    assert not silent, (
        f"Settings of '{spec.name}' without a word of help: {', '.join(silent)}. Write a comment behind the field on "
        f"its "
        f"line, field(metadata={{'help': ...}}), or an entry under 'Attributes:' of {spec.config.__name__}."
    )


@check("settings", "settings round trip")
def round_trip(case: SettingsCase) -> None:
    """The default settings are made without arguments, go through YAML and JSON unchanged, and take no unknown key."""
    spec = case.spec
    settings = spec.config()
    try:
        tree = plain(settings)
        texts = {"YAML": OmegaConf.to_yaml(OmegaConf.create(tree)), "JSON": json.dumps(tree)}
    except Exception as error:
        raise AssertionError(
            f"The default settings of '{spec.name}' cannot be written to YAML and JSON: {error}. Use numbers, texts, "
            f"booleans, None, and lists, mappings or dataclasses of them."
        ) from error
    for kind, read in (
        ("YAML", OmegaConf.to_container(OmegaConf.create(texts["YAML"]))),
        ("JSON", json.loads(texts["JSON"])),
    ):
        try:
            found: Any = build(spec.config, _leaves(read), spec.name)
        except AVCoreError as error:
            raise AssertionError(
                f"The settings of '{spec.name}' cannot be read from their own {kind}: {error}"
            ) from error
        for entry in dataclasses.fields(spec.config):
            one, other = getattr(settings, entry.name), getattr(found, entry.name)
            assert one == other, f"The setting '{entry.name}' of '{spec.name}' is {one!r}, and {other!r} after {kind}."
    refused = refusal(lambda: build(spec.config, _leaves({**tree, "no_such_setting": 1}), spec.name))
    assert refused is not None, f"'{spec.name}' takes an unknown setting without a word."


@check("settings", "options")
def options(case: SettingsCase) -> None:
    """A setting with an option of the command line is of a task or a data set, and has no name of avcore's options."""
    for entry in dataclasses.fields(case.spec.config):
        if "option" not in entry.metadata:
            continue
        where, words = f"The setting '{entry.name}' of '{case.spec.name}'", entry.metadata["option"]
        assert isinstance(case.spec, TaskSpec | DatasetSpec), (
            f"{where} declares an option, and only tasks and data sets can: leave out metadata's 'option'."
        )
        told = isinstance(words, str) and bool(words)
        assert told, f"{where}: metadata's 'option' is {words!r}; it is what help calls the value, such as 'N'."
        assert entry.name.replace("_", "-") not in TAKEN, (
            f"{where} cannot be an option, since 'avcore run' has one of that name: rename it, or leave out 'option'."
        )


def _leaves(tree: Any) -> dict[str, Leaf]:
    return {key: Leaf(value, Layer("conformance")) for key, value in flatten(tree).items()}
