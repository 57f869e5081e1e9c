"""Where a run starts: at what another one, or an adapter, has trained already."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcore.config.recipes import parse_yaml
from avcore.engine.checkpoint import CheckpointStore, load_tensors
from avcore.errors import AssemblyError, AVCoreError
from avcore.model import AVModel
from avcore.runs.adapter import check_values, read_description, renamed
from avcore.runs.resume import has_run
from avcore.states import trainable_state

__all__ = ["start_at"]

SHOWN = 3
"""Names in a message."""


def start_at(model: AVModel, folder: Path, *, must: bool = True) -> list[str]:
    """Copy what is trained in a run or an adapter into a model, tensor by tensor where names are the same.

    Args:
        model: not yet trained; what the folder does not have stays as it is.
        folder: of a run, whose best checkpoint is taken, or of an adapter.
        must: refuse one that has nothing in common with the model.

    Returns:
        Lines that say what was read, what of it has no place in the model, and what of the model starts anew.

    Raises:
        AVCoreError: it is neither, is damaged, has nothing in common with the model, or tensors of another shape. The
            model is as it was.
    """
    what, state, config, frozen = _read(folder)
    own = trainable_state(model)
    state = renamed(state, config, model)
    common = [key for key in own if key in state]
    if not common and not must:
        return [f"{what} has trained nothing that this run trains"]
    if not common:
        raise AssemblyError(
            f"{what} has trained nothing that this run trains: there it is {_some(list(state))}, here "
            f"{_some(list(own))}. Name another one, or leave --start (train.start) out."
        )
    faults = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in common
        if state[key].shape != own[key].shape
    ]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise AssemblyError(
            f"{what} does not fit this run: {'; '.join(faults[:SHOWN])}{more}. Take the settings and backbones of that "
            "one here too, or leave --start (train.start) out."
        )
    check_values(what, {key: state[key] for key in common}, own)
    with torch.no_grad():
        for key in common:
            own[key].copy_(state[key])
    lines = [f"starts at {what[0].lower()}{what[1:]}: {_counted(common, own)}: {_some(common)}"]
    if left := [key for key in state if key not in own]:
        lines.append(f"without a place here: {_counted(left, state)} of it: {_some(left)}")
    if new := [key for key in own if key not in state]:
        lines.append(f"starts anew: {_counted(new, own)}: {_some(new)}")
    if frozen != model.backbone_digest:
        lines.append(f"it was trained on other frozen weights, {frozen[:12]}; these are {model.backbone_digest[:12]}")
    return lines


def _read(folder: Path) -> tuple[str, Mapping[str, Tensor], Mapping[str, Any], str]:
    """What it is, its trained tensors, its configuration, the digest of its frozen weights."""
    if (folder / "adapter.json").is_file():
        description = read_description(folder / "adapter.json")
        tensors = load_tensors(folder / "adapter.safetensors")
        return f"The adapter {folder}", tensors, description["config"], description["frozen_digest"]
    if not has_run(folder):
        raise AVCoreError(
            f"'{folder}' holds neither a run nor an adapter to start at (train.start): name such a folder."
        )
    best = CheckpointStore(folder / "checkpoints").open("best")
    file = folder / "config.yaml"
    config = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    return f"The run {folder}, epoch {best.progress.epoch}", best.model_state(), config, best.frozen_digest


def _counted(keys: list[str], tensors: Mapping[str, Tensor]) -> str:
    numbers = sum(tensors[key].numel() for key in keys)
    return f"{len(keys)} tensor{'s' if len(keys) > 1 else ''} of {numbers:,} numbers"


def _some(keys: list[str]) -> str:
    return f"{', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''}"
