"""Adapters: what was trained, without what was frozen, as a directory that can be handed on.

``adapter.safetensors`` holds the trained tensors; ``adapter.json`` says which parts with which settings they belong to,
and on which frozen weights.
"""

import warnings
from pathlib import Path
from typing import Any

from avcore.config import plain
from avcore.engine.checkpoint import load_tensors, serialise
from avcore.engine.files import read_json, write_atomic, write_json
from avcore.engine.records import versions
from avcore.errors import AVCoreError
from avcore.model import AVModel

__all__ = ["check_folder", "load_adapter", "save_adapter", "write_adapter"]

FORMAT = 1


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

    Warns when versions of avcore, of plugins or of torch differ from those that saved it.

    Raises:
        AVCoreError: it is no adapter, belongs to other frozen weights, or its tensors are missing, extra or misshapen;
            names them. The model is as it was.
    """
    folder = Path(path)
    description = read_json(folder / "adapter.json")
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise AVCoreError(f"{folder / 'adapter.json'} is not of format {FORMAT}, which this avcore reads.")
    saved = str(description["frozen_digest"])
    if saved != model.backbone_digest:
        raise AVCoreError(
            f"The adapter {folder} belongs to {_backbones(description)} with frozen weights {saved[:12]}; this model "
            f"has {model.backbone_digest[:12]}. Make the model with the same backbones and weights."
        )
    state = load_tensors(folder / "adapter.safetensors")
    try:
        model.load_trainable_state(state)
    except AVCoreError as error:
        listed = ", ".join(description["parts"]) or "none"
        raise AVCoreError(f"The adapter {folder} (parts: {listed}) does not fit. {error}") from error
    now = versions()
    differ = [
        f"{name} {old} (here {now.get(name)})" for name, old in description["versions"].items() if now.get(name) != old
    ]
    if differ:
        warnings.warn(f"The adapter {folder} was saved with {', '.join(differ)}.", stacklevel=2)


def _describe(model: AVModel) -> dict[str, Any]:
    config = model.config
    return {
        "format": FORMAT,
        "task": config.task,
        "method": config.method,
        "prompts": list(config.prompts),
        "fusion": list(config.fusion),
        "parts": {name: plain(settings) for name, settings in config.parts.items()},
        "head": {"name": config.head.name, **plain(config.head.settings)},
        "visual": config.visual.backbone,
        "audio": config.audio.backbone,
        "streams": config.streams,
        "frozen_digest": model.backbone_digest,
        "versions": versions(),
    }


def _backbones(description: dict[str, Any]) -> str:
    return f"visual {description['visual']}, audio {description['audio'] or 'shared'}"
