"""Adapters: what was trained, without what was frozen, as a directory that can be handed on.

``adapter.safetensors`` holds the trained tensors; ``adapter.json`` says which parts with which settings they belong to,
which plugins those come from, and on which frozen weights. Neither holds code, and loading imports nothing that the
model has not imported already.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from avcore.config import RunConfig
from avcore.config.leaves import flatten, nest
from avcore.config.sections import to_tree
from avcore.engine.checkpoint import load_tensors, serialise
from avcore.engine.files import read_json, write_atomic, write_json
from avcore.engine.records import versions
from avcore.errors import AssemblyError, AVCoreError, PluginError
from avcore.model import AVModel
from avcore.registry import Table, load_registry

__all__ = ["check_folder", "load_adapter", "save_adapter", "write_adapter"]

_logger = logging.getLogger(__name__)

FORMAT = 1
ENTRIES = {"config": dict, "plugins": dict, "frozen_digest": str, "versions": dict}
# What the machine decides, not the model.
_LOCAL = ("device", "data.root", "data.cache", "data.workers")
# What shapes the model and what it is fed; weights are compared by their digest, whatever their file is called.
_SHAPING = ("task", "task_options", "prompts", "fusion", "streams", "visual", "audio", "plan", "parts", "head", "data")
_UNCOMPARED = ("visual.weights", "audio.weights", "data.dataset")


def save_adapter(model: AVModel, path: str | Path) -> None:
    """Save what is trained in a model, in formats that hold no code.

    Args:
        model: made by `avcore.create_model` or by a run.
        path: a directory, new or holding an adapter, which is replaced.

    Raises:
        AVCoreError: the directory holds something else, or cannot be written.
    """
    write_adapter(model, Path(path))


def check_folder(folder: Path) -> None:
    """Refuse to write an adapter over anything else.

    Raises:
        AVCoreError: the directory holds something else than an adapter, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise AVCoreError(f"{folder} is a file; an adapter is a directory.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "adapter.json").is_file():
        raise AVCoreError(f"{folder} holds something else than an adapter; name an empty or a new directory.")


def _check_values(folder: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse what no training leaves: whole numbers for fractions, and values that are not finite."""
    faults = []
    for key, tensor in state.items():
        if key in own and tensor.is_floating_point() != own[key].is_floating_point():
            faults.append(f"{key} is {tensor.dtype} instead of {own[key].dtype}")
        elif not tensor.isfinite().all():
            faults.append(f"{key} is not finite")
    if faults:
        raise AVCoreError(f"The adapter {folder} is damaged: {'; '.join(faults)}. Get it anew, or save it again.")


def write_adapter(model: AVModel, folder: Path, **remarks: Any) -> None:
    """Do what `save_adapter` does; ``remarks`` join the description."""
    description = {**_describe(model), **remarks}
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AVCoreError(f"Cannot make {folder}: {error.strerror}.") from error
    write_atomic(folder / "adapter.safetensors", serialise(model.trainable_state()))
    write_json(folder / "adapter.json", description)


def load_adapter(model: AVModel, path: str | Path) -> None:
    """Load an adapter into a model with the same parts on the same frozen weights.

    Warns of whatever else differs from the model and the installation that saved it: settings, versions.

    Raises:
        AVCoreError: it is no adapter, belongs to other frozen weights or to another major version of a plugin that a
            part or the head comes from, or its tensors are missing, extra or misshapen; names them. The model is as it
            was.
    """
    folder = Path(path)
    description = _read_description(folder / "adapter.json")
    differ = list(_other_plugins(folder, description["plugins"], _plugins(model.config)))
    saved = description["frozen_digest"]
    if saved != model.backbone_digest:
        raise AssemblyError(
            f"The adapter {folder} belongs to {_backbones(description['config'])} with frozen weights {saved[:12]}; "
            f"this model has {model.backbone_digest[:12]}. Make the model with the same backbones and weights."
        )
    state = load_tensors(folder / "adapter.safetensors")
    _check_values(folder, state, model.trainable_state())
    try:
        model.load_trainable_state(state)
    except AVCoreError as error:
        of = " and ".join(f"{key} {description['config'].get(key)}" for key in ("prompts", "fusion"))
        raise AssemblyError(f"The adapter {folder}, of {of}, does not fit. {error}") from error
    differ += _other_settings(description["config"], _portable(model.config))
    now = versions()
    differ += [
        f"{name} {old} (here {now.get(name)})" for name, old in description["versions"].items() if now.get(name) != old
    ]
    if differ:
        _logger.warning("The adapter %s was saved with %s.", folder, ", ".join(differ))


def _describe(model: AVModel) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": _portable(model.config),
        "plugins": _plugins(model.config),
        "frozen_digest": model.backbone_digest,
        "versions": versions(),
    }


def _portable(config: RunConfig) -> dict[str, Any]:
    """The configuration without what only this machine knows; of files the name alone."""
    flat = {key: value for key, value in flatten(to_tree(config)).items() if key not in _LOCAL}
    return nest({key: _file_name(value) for key, value in flat.items()})


def _file_name(value: Any) -> Any:
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value


def _plugins(config: RunConfig) -> dict[str, dict[str, str]]:
    """Part, or head -> the distribution that offers it, and its version; nothing for one that is not installed."""
    registry = load_registry()
    released = {plugin.distribution: plugin.version for plugin in registry.plugins}
    chosen: list[tuple[Table[Any], Sequence[str]]] = [
        (registry.prompts, config.prompts),
        (registry.fusions, config.fusion),
        (registry.heads, [config.head.name]),
    ]
    origins = {name: table.origin(name) for table, names in chosen for name in names if name in table}
    return {name: {"distribution": origin, "version": released[origin]} for name, origin in origins.items()}


def _read_description(file: Path) -> dict[str, Any]:
    description = read_json(file)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise AVCoreError(f"{file} is not of format {FORMAT}, which this avcore reads.")
    for name, kind in ENTRIES.items():
        if not isinstance(description.get(name), kind):
            raise AVCoreError(f"{file} is damaged: '{name}' is missing or no {kind.__name__}.")
    return description


def _other_plugins(folder: Path, saved: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """What comes from another distribution; raises AVCoreError for another major version of the same."""
    for name, plugin in here.items():
        before = saved.get(name)
        if not isinstance(before, dict) or before == plugin:
            continue
        old, new = (f"{one.get('distribution')} {one.get('version')}" for one in (before, plugin))
        if before.get("distribution") != plugin["distribution"]:
            yield f"'{name}' of {old} (here of {new})"
        elif _major(str(before.get("version"))) != _major(plugin["version"]):
            raise PluginError(
                f"The adapter {folder} was saved with {old}, which offers '{name}'; here is {new}. Another major "
                f"version may compute something else with the same tensors: install {plugin['distribution']} "
                f"{_major(str(before.get('version')))}.*, or train again."
            )


def _major(version: str) -> str:
    return version.partition(".")[0]


def _other_settings(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    before, now = flatten(saved), flatten(here)
    keys = [key for key in dict.fromkeys([*before, *now]) if key.partition(".")[0] in _SHAPING]
    return [
        f"{key}={before.get(key)} (here {now.get(key)})"
        for key in keys
        if key not in _UNCOMPARED and before.get(key) != now.get(key)
    ]


def _backbones(config: Mapping[str, Any]) -> str:
    flat = flatten(config)
    return f"visual {flat.get('visual.backbone')}, audio {flat.get('audio.backbone') or 'shared'}"
