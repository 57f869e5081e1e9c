"""Copies of frozen modules that parts train, and towers in which they stand where the frozen ones do."""

from collections.abc import Iterator, Mapping
from typing import TypeVar, cast

from torch import Tensor, nn

__all__ = ["copies_in", "place_copy", "standing_in"]

M = TypeVar("M", bound=nn.Module)


class _InItsType(nn.Module):
    """A copy in its own number format, between frozen modules of another."""

    def __init__(self, copy: nn.Module) -> None:
        super().__init__()
        self.copy = copy

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.copy(x.to(next(self.copy.parameters()).dtype))
        return made.to(x.dtype)


def place_copy(holder: nn.ModuleDict, name: str, copy: nn.Module) -> None:
    """Register a copy under a name whose dots part levels, as in ``blocks.0.norm1``."""
    *levels, leaf = name.split(".")
    for level in levels:
        if level not in holder:
            holder[level] = nn.ModuleDict()
        holder = cast(nn.ModuleDict, holder[level])
    holder[leaf] = copy


def copies_in(holder: nn.ModuleDict, before: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The copies that `place_copy` registered, with their names."""
    for name, module in holder.items():
        if isinstance(module, nn.ModuleDict):
            yield from copies_in(module, f"{before}{name}.")
        else:
            yield f"{before}{name}", module


def standing_in(module: M, copies: Mapping[nn.Module, nn.Module], made: dict[nn.Module, nn.Module]) -> M:
    """A twin of a frozen module in which copies stand for some of the modules in it; the module itself is unchanged.

    The twin shares everything else with it: whatever lies on no way to a copy is the same object, and parameters,
    buffers and hooks of what lies on one are kept in the same dictionaries. So the twin needs no care of its own when
    the frozen module is moved, cast or sharded.

    Args:
        module: such as a tower.
        copies: frozen modules to their copies. A frozen module that is reached otherwise than as a registered submodule
            stays.
        made: the twins so far, which are filled in: those of modules that several towers share are made once.
    """
    if module in copies:
        return cast(M, _InItsType(copies[module]))
    if module not in made:
        own = {name: child for name, child in module._modules.items() if child is not None}
        twins = {name: standing_in(child, copies, made) for name, child in own.items()}
        made[module] = module
        if any(twins[name] is not child for name, child in own.items()):
            twin = object.__new__(type(module))
            twin.__dict__.update(module.__dict__, _modules={**module._modules, **twins})
            made[module] = twin
    return cast(M, made[module])
