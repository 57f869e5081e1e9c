"""Which distribution offered each name of a configuration: what is recorded, and read back by.

``config.yaml`` and ``adapter.json`` hold it as ``full_names``: kind -> ``distribution:name``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from avcore.config.records import RunConfig, StreamConfig
from avcore.errors import ConfigError

if TYPE_CHECKING:
    from avcore.registry import Registry

__all__ = ["full_names_in", "full_names_of", "names_of"]

KINDS = ("tasks", "methods", "prompts", "fusions", "backbones", "heads", "datasets")


def names_of(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """Kind -> what a configuration chose of it, each name once, as it stands there; kinds without any are left out."""
    chosen: dict[str, tuple[str | None, ...]] = {
        "tasks": (config.task,),
        "methods": (config.method,),
        "prompts": config.prompts,
        "fusions": config.fusions,
        "backbones": tuple(one.backbone for one in vars(config).values() if isinstance(one, StreamConfig)),
        "heads": (config.head.name,),
        "datasets": (config.data.dataset,),
    }
    named = {kind: tuple(dict.fromkeys(one for one in chosen[kind] if one and one != "none")) for kind in KINDS}
    return {kind: names for kind, names in named.items() if names}


def full_names_of(config: RunConfig, registry: "Registry") -> dict[str, tuple[str, ...]]:
    """Kind -> the full name of everything that stands in a configuration without its distribution.

    Args:
        config: its names are those that ``registry`` gave.
        registry: where they are looked up.
    """
    found = {
        kind: tuple(registry.tables[kind].full_name(name) for name in names if ":" not in name)
        for kind, names in names_of(config).items()
    }
    return {kind: names for kind, names in found.items() if names}


def full_names_in(section: Any, source: str) -> dict[str, tuple[str, ...]]:
    """The full names that a file holds.

    Args:
        section: kind -> list of full names.
        source: the file, for messages.

    Raises:
        ConfigError: an unknown kind, or something else than a list of full names.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"'full_names' ({source}) is {section!r}; it must hold a list of full names for each kind.")
    for kind, names in section.items():
        if kind not in KINDS:
            raise ConfigError(f"'full_names.{kind}' ({source}) is no kind of name; there are {', '.join(KINDS)}.")
        if not isinstance(names, list | tuple) or not all(_is_full(name) for name in names):
            raise ConfigError(
                f"'full_names.{kind}' ({source}) is {names!r}; it must be a list of names like 'DISTRIBUTION:NAME'."
            )
    return {kind: tuple(names) for kind, names in section.items()}


def _is_full(name: Any) -> bool:
    return isinstance(name, str) and all(name.rpartition(":"))
