"""A converted checkpoint, sorted, and the list of what in it does not fit."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from avcore.backbones import Tower
from avcore.backbones.copies import copies_in
from avcore.errors import AssemblyError
from avcore.model import AVModel
from avcore.specs import MethodSpec, resolve
from avcore.states import trainable_state

__all__ = ["ConversionError", "Pieces"]

UNKNOWN = "unknown."
"""What converters put before a name that they do not know."""


class ConversionError(AssemblyError):
    """A checkpoint that does not fit: ``faults`` has one line for each key."""

    def __init__(self, summary: str, faults: Sequence[str]) -> None:
        super().__init__("\n".join([summary, *faults]))
        self.summary = summary
        self.faults = tuple(faults)


class Pieces:
    """A converted checkpoint, sorted into what is trained and what is frozen of which backbone.

    Args:
        spec: of the method.
        source: the file.
        tensors: what it holds.
        shapes: the model on the meta device.
    """

    def __init__(self, spec: MethodSpec, source: Path, tensors: Mapping[str, Tensor], shapes: AVModel) -> None:
        self.source = source
        self.shapes = shapes
        self.owner = f"{spec.name} on {shapes.config.task}"
        self.own = trainable_state(shapes)
        self.trunks = _trunks(shapes)
        self.trained: dict[str, Tensor] = {}
        self.frozen: dict[str, dict[str, Tensor]] = {stream: {} for stream in self.trunks}
        self.derived: dict[str, Tensor] = {}
        self.unknown: list[str] = []
        self.misshapen: list[str] = []
        self.contradictory: list[str] = []
        derived = _derived(shapes)
        for key, tensor in resolve(spec.converter)(tensors, shapes).items():
            stream, _, name = key.partition(".")
            holder = _holder(shapes, stream)
            expected: Tensor
            if key in self.own:
                self.trained[key], expected = tensor, self.own[key]
            elif name in self.trunks.get(holder, ()):
                expected = self.trunks[holder][name]
                if not torch.equal(self.frozen[holder].setdefault(name, tensor), tensor):
                    self.contradictory.append(f"{key} is not that of the other stream, which shares the backbone")
            elif key in derived:
                self.derived[key], expected = tensor, derived[key]
            else:
                self.unknown.append(key.removeprefix(UNKNOWN))
                continue
            if tensor.shape != expected.shape:
                self.misshapen.append(f"{key} is {tuple(tensor.shape)} instead of {tuple(expected.shape)}")
        self._stand_ins = self._shadowed()

    def refuse_misfits(self) -> None:
        """Raise ConversionError where keys of the trained state are unknown, missing or misshapen."""
        missing = [key for key in self.own if key not in self.trained]
        groups = {
            "unknown": self.unknown,
            "missing": missing,
            "misshapen": self.misshapen,
            "contradictory": self.contradictory,
        }
        self.refuse(groups, "Another recipe, --visual or --set may be what it was trained with.")

    def refuse(self, groups: Mapping[str, Iterable[str]], advice: str) -> None:
        """Raise ConversionError if a group has a key."""
        listed = {name: list(keys) for name, keys in groups.items()}
        faults = [f"{name}: {key}" for name, keys in listed.items() for key in keys]
        if faults:
            counts = ", ".join(f"{len(keys)} {name}" for name, keys in listed.items() if keys)
            raise ConversionError(
                f"'{self.source}' does not fit {self.owner}: {counts}. {advice} Nothing was written.", faults
            )

    def whole(self, stream: str) -> dict[str, Tensor]:
        """The frozen tensors of a backbone; where trained ones stand in for them everywhere, those."""
        return {**self._stand_ins[stream], **self.frozen[stream]}

    def lacking(self, stream: str) -> list[str]:
        """The frozen tensors of a backbone that the file does not hold."""
        held = self.whole(stream)
        return [name for name in self.trunks[stream] if name not in held]

    def differences(self, model: AVModel) -> list[str]:
        """The frozen tensors of the file that are others in a model, in the lower precision of the two."""
        found = []
        trunks = _trunks(model)
        for stream, given in self.frozen.items():
            found += [f"{stream}.{name}" for name, tensor in given.items() if not _equal(trunks[stream][name], tensor)]
        own = _derived(model)
        # Computed from the weights, so that only rounding may differ.
        found += [
            key
            for key, tensor in self.derived.items()
            if not torch.allclose(own[key].double(), tensor.double(), rtol=1e-5, atol=1e-6)
        ]
        return found

    def _shadowed(self) -> dict[str, dict[str, Tensor]]:
        """Trained tensors that stand in for frozen ones wherever these are used, by the names of the frozen ones."""
        copies = {
            (stream, name): f"{part.key}.backbone.{stream}.{name}"
            for part in reversed(self.shapes.instances)
            for stream, named in part.module.backbone.items()
            for name, _ in copies_in(cast(nn.ModuleDict, named))
        }
        offered = {
            (stream, name): module
            for stream, tower in _towers(self.shapes).items()
            for name, module in tower.trainable.items()
        }
        names = {id(tensor): (stream, key) for stream, own in self.trunks.items() for key, tensor in own.items()}
        found: dict[str, dict[str, Tensor]] = {stream: {} for stream in self.trunks}
        for module in offered.values():
            users = [place for place, other in offered.items() if other is module]
            if not all(user in copies for user in users):
                continue
            for leaf, tensor in module.state_dict(keep_vars=True).items():
                for place in users:
                    trained = self.trained.get(f"{copies[place]}.{leaf}")
                    if trained is not None and id(tensor) in names:
                        stream, key = names[id(tensor)]
                        found[stream][key] = trained
        return found


def _equal(own: Tensor, given: Tensor) -> bool:
    dtype = min((own.dtype, given.dtype), key=lambda one: one.itemsize)
    return torch.equal(own.to(dtype), given.to(dtype))


def _towers(model: AVModel) -> dict[str, Tower]:
    return {stream: tower for stream, tower in model.towers.items() if isinstance(tower, Tower)}


def _trunks(model: AVModel) -> dict[str, Mapping[str, Tensor]]:
    """The frozen tensors of each backbone, by the stream whose setting ``weights`` fills it."""
    found: dict[str, Mapping[str, Tensor]] = {}
    for stream, tower in _towers(model).items():
        found.setdefault(_holder(model, stream), tower.weights())
    return found


def _holder(model: AVModel, stream: str) -> str:
    """The stream under whose name a stream's weights are set: its own, or ``visual`` where it has no backbone."""
    shares = stream == "audio" and model.config.audio.backbone is None
    return "visual" if shares else stream


def _derived(model: AVModel) -> dict[str, Tensor]:
    """What towers compute from their weights and keep, as ``stream.name``."""
    return {
        f"{stream}.{name}": buffer
        for stream, tower in _towers(model).items()
        for name, buffer in tower.named_buffers(recurse=False)
    }
