"""Checkpoints: directories that are complete or do not count.

``checkpoints/step-00000120/`` holds ``model.safetensors`` (what is trained, nothing frozen; its average where one is
taken, with ``training.safetensors`` to go on from beside it), ``optimizer.safetensors`` with ``optimizer.json``, and
``state.json``, which names sizes and hashes of the others and is written last. The
directory is written under another name, flushed to disk and renamed. The latest is the complete one with the highest
step, so a torn one is never taken for it; its state says which is the best, so that both change at one moment.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from avcore.engine.files import ASIDE, clear_leftovers, json_text, read_json, sha256, sync_directory, write_synced
from avcore.errors import AVCoreError, why

__all__ = [
    "CHOICES",
    "Checkpoint",
    "CheckpointStore",
    "Reached",
    "Snapshot",
    "load_tensors",
    "restore_optimizer",
    "serialise",
]

CHOICES = ("best", "latest")
FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How far a run has come, enough to go on from there.

    Attributes:
        epoch: epochs completed.
        step: optimiser steps completed.
        position: steps completed in the epoch that has begun, 0 at its start.
        averaged: updates of the average of the weights (``train.average``).
        skipped: steps that made no update because loss or gradient was not finite.
        score: of this checkpoint, None when it was not evaluated.
        scores: all scores of the evaluation that belongs to this checkpoint.
        best: the best score so far.
        best_step: the step of the checkpoint that reached it.
    """

    epoch: int
    step: int
    position: int = 0
    averaged: int = 0
    skipped: int = 0
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """What training has made so far.

    Attributes:
        optimizer: as it is.
        model_state: the trained tensors that are evaluated.
        training_state: those that training goes on from, where ``model_state`` is an average.
    """

    optimizer: Optimizer
    model_state: Mapping[str, Tensor]
    training_state: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk, its hashes verified."""

    path: Path
    progress: Reached
    frozen_digest: str
    versions: Mapping[str, str]

    def model_state(self) -> dict[str, Tensor]:
        """The trained tensors, on the CPU."""
        return load_tensors(self.path / "model.safetensors")

    def training_state(self) -> dict[str, Tensor]:
        """The trained tensors that training goes on from: those of `model_state` unless that is an average."""
        own = self.path / "training.safetensors"
        return load_tensors(own) if own.is_file() else self.model_state()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        AVCoreError: the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise AVCoreError(f"Cannot read {path}: {error}.") from error


class CheckpointStore:
    """The ``checkpoints/`` directory of a run; keeps the best and the latest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(
        self,
        snapshot: Snapshot,
        progress: Reached,
        *,
        frozen_digest: str,
        versions: Mapping[str, str],
    ) -> Path:
        """Write a checkpoint, then forget all but the best and this one.

        Args:
            snapshot: what is kept.
            progress: so far.
            frozen_digest: of the frozen weights.
            versions: of the software.

        Raises:
            AVCoreError: it cannot be written; older checkpoints are as they were.
        """
        final = self._at(progress.step)
        aside = self.directory / f"{ASIDE}{final.name}-{os.getpid()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            tensors, settings = _optimizer_state(snapshot.optimizer)
            write_synced(aside / "model.safetensors", serialise(snapshot.model_state))
            if snapshot.training_state is not None:
                write_synced(aside / "training.safetensors", serialise(snapshot.training_state))
            write_synced(aside / "optimizer.safetensors", serialise(tensors))
            write_synced(aside / "optimizer.json", json_text(settings).encode())
            files = {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(aside.iterdir())
            }
            state = {"format": FORMAT, **asdict(progress), "frozen_digest": frozen_digest, "versions": dict(versions)}
            write_synced(aside / "state.json", json_text({**state, "files": files}).encode())
            sync_directory(aside)
            if final.exists():
                # The same step, saved before it was evaluated; under its other name it still counts as complete.
                older = final.with_name(f"{final.name}.old")
                shutil.rmtree(older, ignore_errors=True)
                os.replace(final, older)
            os.replace(aside, final)
            sync_directory(self.directory)
        except OSError as error:
            raise AVCoreError(f"Cannot write the checkpoint {final}: {why(error)}.") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        kept = (final.name, "" if progress.best_step is None else self._at(progress.best_step).name)
        for path in self.directory.glob("step-*"):
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        return final

    def open(self, which: str = "best") -> Checkpoint:
        """The ``best`` or the ``latest`` checkpoint.

        Raises:
            AVCoreError: there is none, or it is damaged; says what else to do.
        """
        if which not in CHOICES:
            raise AVCoreError(f"There is no checkpoint '{which}': write best or latest.")
        return self._best() if which == "best" else self._latest()[0]

    def resume(self) -> tuple[Checkpoint | None, list[str]]:
        """Clear what a killed save left; the latest complete checkpoint, if any, and what is wrong with later ones.

        Raises:
            AVCoreError: there are checkpoints, all of them damaged.
        """
        clear_leftovers(self.directory)
        if not any(self.directory.glob("step-*")):
            return None, []
        return self._latest()

    def _at(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}"

    def _best(self) -> Checkpoint:
        latest, _ = self._latest()
        step = latest.progress.best_step
        if step is None:
            raise AVCoreError(
                f"{self.directory} has no best checkpoint yet: the run ended before its first evaluation. Go on with "
                "it (avcore run --resume DIR), or try --checkpoint latest."
            )
        try:
            return read_checkpoint(self._at(step))
        except AVCoreError as error:
            raise AVCoreError(f"{error} The latest checkpoint may be whole: try --checkpoint latest.") from error

    def _latest(self) -> tuple[Checkpoint, list[str]]:
        reasons: list[str] = []
        for path in sorted(self.directory.glob("step-*"), reverse=True):
            try:
                return read_checkpoint(path), reasons
            except AVCoreError as error:
                reasons.append(str(error))
        raise AVCoreError(" ".join([f"{self.directory} has no complete checkpoint.", *reasons]))


def read_checkpoint(path: Path) -> Checkpoint:
    """Verify a checkpoint directory and read its state.

    Raises:
        AVCoreError: a file is missing, cut short or altered; names it.
    """
    state = read_json(path / "state.json")
    if not isinstance(state, dict):
        raise AVCoreError(f"The checkpoint {path} is damaged: state.json holds no record of it.")
    if state.get("format") != FORMAT:
        raise AVCoreError(f"{path / 'state.json'} has format {state.get('format')}; this avcore reads {FORMAT}.")
    try:
        return _verified(path, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise AVCoreError(f"The checkpoint {path} is damaged: state.json is not as it was written.") from error


def _verified(path: Path, state: Mapping[str, Any]) -> Checkpoint:
    for name, expected in state["files"].items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != expected["bytes"] or sha256(file) != expected["sha256"]:
            found = "missing" if size is None else f"{size} bytes" if size != expected["bytes"] else "altered"
            raise AVCoreError(
                f"The checkpoint {path} is damaged: {name} is {found}, expected {expected['bytes']} bytes."
            )
    progress = Reached(**{name: state[name] for name in Reached.__dataclass_fields__})
    return Checkpoint(path, progress, state["frozen_digest"], state["versions"])


def restore_optimizer(optimizer: Optimizer, checkpoint: Path) -> None:
    """Give an optimiser of the same parameters the state it had.

    Raises:
        AVCoreError: it trains other parameters than the one that was saved.
    """
    saved = read_json(checkpoint / "optimizer.json")
    tensors = load_tensors(checkpoint / "optimizer.safetensors")
    names = [name for group in optimizer.param_groups for name in group["names"]]
    if set(saved["names"]) != set(names):
        differ = sorted(set(saved["names"]) ^ set(names))
        raise AVCoreError(f"{checkpoint} was saved for other parameters; they differ in {', '.join(differ)}.")
    state: dict[int, dict[str, Any]] = {}
    for index, name in enumerate(names):
        entries = {key: tensors[f"{name}/{key}"] for key in saved["tensors"].get(name, [])}
        state[index] = {**entries, **saved["values"].get(name, {})}
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": {k: v for k, v in state.items() if v}, "param_groups": current["param_groups"]})


def _optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors as ``"parameter/key"``, and what else there is as plain values."""
    names = [name for group in optimizer.param_groups for name in group["names"]]
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {"names": names, "tensors": {}, "values": {}}
    for index, entries in optimizer.state_dict()["state"].items():
        name = names[index]
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
                settings["tensors"].setdefault(name, []).append(key)
            else:
                settings["values"].setdefault(name, {})[key] = value
    return tensors, settings


def serialise(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors in the safetensors format."""
    # Tied tensors share memory, which the format refuses; a copy of each is what a loader expects.
    return safetensors.torch.save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})
