"""What a model consists of and what of it trains: components to count, names, and the state that is saved."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from avcore.backbones import state_faults
from avcore.errors import AssemblyError
from avcore.injection import Layer
from avcore.model import AVModel
from avcore.specs import STREAMS

__all__ = ["components", "load_trainable_state", "parameter_groups", "trainable_state", "unused_in_reference"]


def components(model: AVModel) -> dict[str, list[nn.Module]]:
    """What parameters belong to: each stream, each part by name, the head. A shared trunk belongs to ``visual``."""
    found: dict[str, list[nn.Module]] = {
        **{name: [] for name in STREAMS},
        **{name: [stream.tower] for name, stream in model.streams.items()},
    }
    for part in model.instances:
        found.setdefault(part.name, []).append(part.module)
    found["head"] = [model.head]
    return found


def unused_in_reference(model: AVModel) -> dict[str, int]:
    """Parameters that reference implementations create and never use, by component; none is allocated here."""
    found = dict.fromkeys(components(model), 0)
    for part in model.instances:
        layers = [layer for layer in part.module.layers.values() if isinstance(layer, Layer)]
        found[part.name] += part.module.unused_in_reference + sum(layer.unused_in_reference for layer in layers)
    found["head"] += model.head.unused_in_reference
    return found


def parameter_groups(model: AVModel) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Trainable parameters under the names that they are saved by, in the groups that have a learning rate."""
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"parts": [], "head": []}
    for name, parameter in _trainable_names(model):
        groups["head" if name.startswith("head.") else "parts"].append((name, parameter))
    return groups


def trainable_state(model: AVModel) -> dict[str, Tensor]:
    """Trainable parameters and the buffers of parts and head (running statistics), detached, by name."""
    state = {name: parameter.detach() for name, parameter in _trainable_names(model)}
    for prefix, module in _trained_modules(model):
        for name, buffer in module.named_buffers():
            if _persistent(module, name):
                state[f"{prefix}.{name}"] = buffer.detach()
    return state


def load_trainable_state(model: AVModel, state: Mapping[str, Tensor]) -> None:
    """Load what `trainable_state` gave.

    Raises:
        AVCoreError: keys are missing, unexpected or misshapen; they are named.
    """
    own = trainable_state(model)
    faults = state_faults(own, state)
    if faults:
        raise AssemblyError(f"The trained parameters do not fit this model: {'; '.join(faults)}.")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])


def _trained_modules(model: AVModel) -> Iterator[tuple[str, nn.Module]]:
    for part in model.instances:
        yield part.key, part.module
    yield "head", model.head


def _trainable_names(model: AVModel) -> Iterator[tuple[str, nn.Parameter]]:
    seen: set[int] = set()
    for prefix, module in _trained_modules(model):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}.{name}", parameter


def _persistent(module: nn.Module, name: str) -> bool:
    owner_name, _, leaf = name.rpartition(".")
    return leaf not in module.get_submodule(owner_name)._non_persistent_buffers_set
