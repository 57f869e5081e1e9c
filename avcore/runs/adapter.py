"""Adapters: what was trained, without what was frozen, as a directory that can be handed on.

``adapter.safetensors`` holds the trained tensors; ``adapter.json`` says which parts with which settings they belong to,
which plugins those come from, and on which frozen weights. Neither holds code, and loading imports nothing but what the
installed plugins offer under the names of its parts.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore.assemble import assemble
from avcore.config import RunConfig, resolve_config
from avcore.config.leaves import flatten, nest
from avcore.config.sections import to_tree
from avcore.engine.checkpoint import load_tensors, serialise
from avcore.engine.files import read_json, sha256, write_atomic, write_json
from avcore.engine.records import versions
from avcore.errors import AssemblyError, AVCoreError, ConfigError, why
from avcore.model import AVModel
from avcore.registry import load_registry
from avcore.runs.offers import offers_of, other_distributions, refuse_other_majors
from avcore.runs.repositories import is_hub_name, repository_of
from avcore.specs import STREAMS, TEXTS
from avcore.states import load_trainable_state, trainable_state

__all__ = [
    "beside",
    "check_folder",
    "check_shared",
    "check_values",
    "holds_adapter",
    "load_adapter",
    "read_description",
    "renamed",
    "save_adapter",
    "write_adapter",
]

_logger = logging.getLogger(__name__)

FORMAT = 1
ENTRIES = {"config": dict, "plugins": dict, "frozen_digest": str, "versions": dict}
# What the machine decides, not the model.
_LOCAL = ("device", "data.root", "data.cache", "data.workers", "train.start")
# What shapes the model and what it is fed; weights are compared by their digest, whatever their file is called.
_SHAPING = ("task", "task_options", "prompts", "fusions", "streams", "visual", "audio", "plan", "parts", "head", "data")
_NAMES = ("task", "head.name", *(f"{stream}.backbone" for stream in (*STREAMS, *TEXTS)))
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


def holds_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no run of which one may lie there."""
    return (folder / "adapter.json").is_file() and not (folder / "checkpoints").exists()


def check_folder(folder: Path) -> None:
    """Refuse to write an adapter over anything else.

    Raises:
        AVCoreError: the directory holds something else than an adapter, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise AVCoreError(f"{folder} is a file; an adapter is a directory.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "adapter.json").is_file():
        raise AVCoreError(f"{folder} holds something else than an adapter; name an empty or a new directory.")


def check_values(what: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse what no training leaves: whole numbers for fractions, and values that are not finite."""
    faults = []
    for key, tensor in state.items():
        if key in own and tensor.is_floating_point() != own[key].is_floating_point():
            faults.append(f"{key} is {tensor.dtype} instead of {own[key].dtype}")
        elif not tensor.isfinite().all():
            faults.append(f"{key} is not finite")
    if faults:
        raise AVCoreError(f"{what} is damaged: {'; '.join(faults)}. Get it anew, or save it again.")


def write_adapter(model: AVModel, folder: Path, **remarks: Any) -> None:
    """Do what `save_adapter` does; ``remarks`` join the description."""
    description = {**_describe(model), **remarks}
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AVCoreError(f"Cannot make {folder}: {why(error)}.") from error
    write_atomic(folder / "adapter.safetensors", serialise(trainable_state(model)))
    write_json(folder / "adapter.json", description)


def load_adapter(
    path: str | Path, model: AVModel | None = None, *, set: Sequence[str] = (), device: str | torch.device = "cpu"
) -> AVModel:
    """Load an adapter: into a model that is made as the adapter says, or into one with the same parts.

    Warns of whatever differs from the model and the installation that saved it: settings, versions.

    Args:
        path: of the adapter, or ``owner/name[@revision]`` of a repository of the Hugging Face hub, where there is no
            such folder.
        model: on the same frozen weights, such as one of `avcore.create_model`; without it one is made, of the
            distributions that offered its names when it was saved.
        set: settings of the model that is made, ``key=value``, such as ``visual.weights=PATH`` where the frozen weights
            are a file that does not lie beside the adapter.
        device: where the model that is made goes.

    Returns:
        The model, which computes what the one did that was saved.

    Raises:
        AVCoreError: it is no adapter, cannot be fetched, belongs to other frozen weights or to another major version
            (before 1.0, another minor one) of avcore or of a plugin that it needs, or its tensors are missing, extra or
            misshapen; names them. A given model is as it was.

    Example:
        >>> model = avcore.load_adapter("adapter")  # doctest: +SKIP
        >>> model = avcore.load_adapter("owner/name@main")  # doctest: +SKIP
    """
    folder = Path(path)
    if isinstance(path, str) and is_hub_name(path) and not folder.exists():
        folder = repository_of(path).fetch()
        check_shared(folder, path)
    description = read_description(folder / "adapter.json")
    what = f"The adapter {folder}"
    refuse_other_majors(what, description["plugins"], description["versions"], load_registry(), but=("datasets",))
    if model is None:
        model = _make_model(folder, description["config"], tuple(set), device)
    elif set:
        raise ConfigError(f"{what} is loaded into a model that is made already; give set=... to what makes it.")
    differ = other_distributions(description["plugins"], offers_of(model.config, load_registry()))
    saved = description["frozen_digest"]
    if saved != model.backbone_digest:
        raise AssemblyError(
            f"{what} belongs to {_backbones(description['config'])} with frozen weights {saved[:12]}; this model has "
            f"{model.backbone_digest[:12]}. Make the model with the same backbones and weights."
        )
    state = renamed(load_tensors(folder / "adapter.safetensors"), description["config"], model)
    check_values(what, state, trainable_state(model))
    try:
        load_trainable_state(model, state)
    except AVCoreError as error:
        of = " and ".join(f"{key} {description['config'].get(key)}" for key in ("prompts", "fusions"))
        raise AssemblyError(f"{what}, of {of}, does not fit. {error}") from error
    differ += _other_settings(description["config"], _portable(model.config))
    now = versions()
    differ += [
        f"{name} {old} (here {now.get(name)})" for name, old in description["versions"].items() if now.get(name) != old
    ]
    if differ:
        _logger.warning("%s was saved with %s.", what, ", ".join(differ))
    return model


def _texts_in(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            yield from _texts_in([*value, *value.values()])
        case list():
            for one in value:
                yield from _texts_in(one)


def _reaches_out(text: str) -> bool:
    return os.path.isabs(text) or text.startswith("~") or ".." in text.split("/") or "${" in text


def _make_model(folder: Path, config: Mapping[str, Any], sets: Sequence[str], device: str | torch.device) -> AVModel:
    """The untrained model that an adapter's description asks for."""
    registry = load_registry()
    resolved = resolve_config(registry, file=beside(folder, config), sets=sets, need_data=False)
    return assemble(resolved.config, registry, device=device)


def beside(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in an adapter's description with the files of frozen weights that lie beside it.

    Of a file only the name is written down; `avcore convert` leaves it there.
    """
    flat = flatten(config)
    for stream in (*STREAMS, *TEXTS):
        file = folder / str(flat.get(f"{stream}.weights"))
        if file.is_file():
            flat[f"{stream}.weights"] = str(file)
    return nest(flat)


def check_shared(folder: Path, label: str) -> None:
    """Refuse what somebody else's adapter must not ask for, and files that are not those that were shared.

    Settings that only a machine decides, paths out of the folder and interpolations, which would read the environment,
    are in no adapter that avcore wrote.

    Raises:
        AVCoreError: names the setting or the file.
    """
    description = read_description(folder / "adapter.json")
    for key, value in flatten(description["config"]).items():
        if key in _LOCAL or any(map(_reaches_out, _texts_in(value))):
            raise AVCoreError(
                f"'{label}' sets {key}={value!r}, which is for this machine to decide: nothing is taken from it."
            )
    shared = description.get("shared")
    for name, digest in shared.items() if isinstance(shared, dict) else ():
        file = folder / os.path.basename(name)
        if not file.is_file() or sha256(file) != digest:
            raise AVCoreError(f"'{label}': {name} is not the one that was shared with its adapter.json. Get it anew.")


def _describe(model: AVModel) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": _portable(model.config),
        "plugins": offers_of(model.config, load_registry()),
        "frozen_digest": model.backbone_digest,
        "versions": versions(),
    }


def _portable(config: RunConfig) -> dict[str, Any]:
    """The configuration without what only this machine knows; of files the name alone."""
    flat = {key: value for key, value in flatten(to_tree(config)).items() if key not in _LOCAL}
    return nest({key: _file_name(value) for key, value in flat.items()})


def _file_name(value: Any) -> Any:
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value


def read_description(file: Path) -> dict[str, Any]:
    """What ``adapter.json`` says.

    Raises:
        AVCoreError: it is missing, of another format, or not as it was written.
    """
    description = read_json(file)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise AVCoreError(f"{file} is not of format {FORMAT}, which this avcore reads.")
    for name, kind in ENTRIES.items():
        if not isinstance(description.get(name), kind):
            raise AVCoreError(f"{file} is damaged: '{name}' is missing or no {kind.__name__}.")
    return description


def _other_settings(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    before, now = _bare(saved), _bare(here)
    keys = [key for key in dict.fromkeys([*before, *now]) if key.partition(".")[0] in _SHAPING]
    return [
        f"{key}={before.get(key)} (here {now.get(key)})"
        for key in keys
        if key not in _UNCOMPARED and before.get(key) != now.get(key)
    ]


def _bare(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flat configuration whose names have lost their distributions, which are compared by themselves."""
    flat = {}
    for key, value in flatten(config).items():
        if key.startswith("parts."):
            key = f"parts.{key.removeprefix('parts.').rpartition(':')[2]}"
        if key in ("prompts", "fusions") and isinstance(value, list):
            value = [str(name).rpartition(":")[2] for name in value]
        elif key in _NAMES and isinstance(value, str):
            value = value.rpartition(":")[2]
        flat[key] = value
    return flat


def renamed(state: Mapping[str, Tensor], config: Mapping[str, Any], model: AVModel) -> dict[str, Tensor]:
    """Tensors under the names of the model's parts: a part may be listed with its distribution here, there without."""
    saved = [str(name) for key in ("prompts", "fusions") for name in config.get(key) or ()]
    own = {name.rpartition(":")[2]: name for name in (*model.config.prompts, *model.config.fusions)}
    here = {name: own.get(name.rpartition(":")[2], name) for name in saved if name not in own.values()}

    def rename(key: str) -> str:
        name = max((one for one in here if key.startswith(f"{one}.")), key=len, default=None)
        return key if name is None else here[name] + key.removeprefix(name)

    return {rename(key): tensor for key, tensor in state.items()}


def _backbones(config: Mapping[str, Any]) -> str:
    flat = flatten(config)
    return f"visual {flat.get('visual.backbone')}, audio {flat.get('audio.backbone') or 'shared'}"
