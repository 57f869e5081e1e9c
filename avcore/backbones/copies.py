"""Copies of frozen modules and tensors that parts train, and towers in which they stand where the frozen ones do."""

from collections.abc import Iterator, Mapping, MutableMapping
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor, nn

__all__ = ["Held", "copies_in", "has_copy", "place_copy", "place_tensor", "standing_in", "tensors_in", "trained_within"]

M = TypeVar("M", bound=nn.Module)


class Held(NamedTuple):
    """Where the trained copy of a tensor is registered; what stands there counts, such as its cast."""

    holder: nn.Module
    name: str

    @property
    def tensor(self) -> Tensor:
        """What stands there now."""
        return cast(Tensor, self.holder._parameters[self.name])


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
    level, leaf = _level(holder, name)
    level[leaf] = copy


def place_tensor(holder: nn.ModuleDict, name: str, copy: nn.Parameter) -> None:
    """Register the copy of a tensor likewise, as in ``blocks.0.attn.qkv.bias``."""
    level, leaf = _level(holder, name)
    level.register_parameter(leaf, copy)


def _level(holder: nn.ModuleDict, name: str) -> tuple[nn.ModuleDict, str]:
    *levels, leaf = name.split(".")
    for level in levels:
        if level not in holder:
            holder[level] = nn.ModuleDict()
        holder = cast(nn.ModuleDict, holder[level])
    return holder, leaf


def copies_in(holder: nn.ModuleDict, before: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The copies that `place_copy` registered, with their names."""
    for name, module in holder.items():
        if isinstance(module, nn.ModuleDict):
            yield from copies_in(module, f"{before}{name}.")
        else:
            yield f"{before}{name}", module


def tensors_in(holder: nn.ModuleDict, before: str = "") -> Iterator[tuple[str, Held]]:
    """The tensors that `place_tensor` registered, with their names."""
    yield from ((f"{before}{name}", Held(holder, name)) for name in holder._parameters)
    for name, module in holder.items():
        if isinstance(module, nn.ModuleDict):
            yield from tensors_in(module, f"{before}{name}.")


def has_copy(module: nn.Module, name: str) -> bool:
    """Whether a part trains a copy of the parameter of that name, which then stands in its place in this module.

    For a tower that works something out of its weights once: where a copy trains, it does so in each forward.
    """
    return name in vars(module).get(_HELD, {})


def trained_within(module: nn.Module) -> Iterator[nn.Module]:
    """The modules of a twin that hold what is trained: copies of modules, and what holds the copies of tensors."""
    for one in module.modules():
        if any(own.requires_grad for own in one.parameters(False)):
            yield one
        yield from (held.holder for held in vars(one).get(_HELD, {}).values())


def standing_in(
    module: M,
    copies: Mapping[nn.Module, nn.Module],
    made: MutableMapping[nn.Module, nn.Module],
    tensors: Mapping[Tensor, Held] | None = None,
) -> M:
    """A twin of a frozen module in which copies stand for some of the modules in it; the module itself is unchanged.

    The twin shares everything else with it: whatever lies on no way to a copy is the same object, and parameters,
    buffers and hooks of what lies on one are kept in the same dictionaries. So the twin needs no care of its own when
    the frozen module is moved, cast or sharded.

    Args:
        module: such as a tower.
        copies: frozen modules to their copies. A frozen module that is reached otherwise than as a registered submodule
            stays.
        made: the twins so far, which are filled in: those of modules that several towers share are made once.
        tensors: frozen parameters to where their copies are. A twin finds these under the names of its parameters; what
            was worked out of a frozen one before stays as it is.
    """
    if module in copies:
        return cast(M, _InItsType(copies[module]))
    if module not in made:
        own = {name: child for name, child in module._modules.items() if child is not None}
        twins = {name: standing_in(child, copies, made, tensors) for name, child in own.items()}
        known = tensors or {}
        held = {name: known[one] for name, one in module._parameters.items() if one is not None and one in known}
        made[module] = module
        if held or any(twins[name] is not child for name, child in own.items()):
            kind: Any = type(module)
            twin = object.__new__(_reading(kind, tuple(held)) if held else kind)
            twin.__dict__.update(module.__dict__, _modules={**module._modules, **twins})
            if held:
                twin.__dict__[_HELD] = held
            made[module] = twin
    return cast(M, made[module])


_HELD = "_held_for_training"


@cache
def _reading(kind: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """The class with properties in place of some parameters: they read what stands where the copies are held."""

    def reads(name: str) -> property:
        def read(self: Any) -> Tensor:
            held: Held = self.__dict__[_HELD][name]
            return held.tensor

        return property(read)

    return type(kind.__name__, (kind,), {"__module__": kind.__module__, **{name: reads(name) for name in names}})
