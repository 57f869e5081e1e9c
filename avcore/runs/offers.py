"""Whose code a run or an adapter was made with: what is written down of it, and what of it must be the same again."""

from collections.abc import Collection, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from avcore.config import RunConfig
from avcore.config.names import names_of
from avcore.errors import PluginError
from avcore.registry import Registry

__all__ = ["Offers", "major", "offers_of", "other_distributions", "refuse_other_majors"]

Offers = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Kind -> name as configured -> ``distribution`` and ``version``."""

_COMPARED = ("tasks", "prompts", "fusions", "backbones", "heads", "datasets")
"""Kinds whose code a model runs or is fed by. Of a method only settings are left, which are in the configuration."""


def offers_of(config: RunConfig, registry: Registry) -> dict[str, dict[str, dict[str, str]]]:
    """The distribution, and its version, of every name of a configuration; nothing for one that is not installed."""
    registry = registry.recorded(config.full_names)
    released = {plugin.distribution: plugin.version for plugin in registry.plugins}
    found: dict[str, dict[str, dict[str, str]]] = {}
    for kind, names in names_of(config).items():
        origins = {name: registry.tables[kind].origin(name) for name in names if registry.tables[kind].offers(name)}
        found[kind] = {name: {"distribution": one, "version": released[one]} for name, one in origins.items()}
    return found


def major(version: str) -> str:
    """What must be equal of two versions for results to mean the same: ``2`` of 2.1.3, but ``0.3`` of 0.3.1."""
    try:
        release = Version(version).release
    except InvalidVersion:
        return version
    return str(release[0]) if release[0] else ".".join(map(str, (*release, 0)[:2]))


def refuse_other_majors(
    what: str, plugins: Any, versions: Mapping[str, Any], registry: Registry, *, but: Collection[str] = ()
) -> None:
    """Refuse what was made with another major version of avcore, or of a plugin that it needs.

    Args:
        what: the run or the adapter, for the message.
        plugins: the `Offers` that were written down, as a file gives them.
        versions: by distribution.
        registry: what is installed.
        but: kinds that are not needed.

    Raises:
        PluginError: a version differs; names it and what it offers.
    """
    released = {plugin.distribution: plugin.version for plugin in registry.plugins}
    saved = _mapping(plugins)
    needed: dict[tuple[str, str], list[str]] = {("avcore", str(versions.get("avcore"))): []}
    for kind in (one for one in _COMPARED if one not in but):
        for name, offer in _mapping(saved.get(kind)).items():
            made_with = (str(_mapping(offer).get("distribution")), str(_mapping(offer).get("version")))
            needed.setdefault(made_with, []).append(f"'{_bare(name)}'")
    for (distribution, version), names in needed.items():
        here = released.get(distribution)
        if here is None or version == "None" or major(version) == major(here):
            continue
        offered = f", which offers {' and '.join(dict.fromkeys(names))}" if names else ""
        raise PluginError(
            f"{what} was saved with {distribution} {version}{offered}; here is {distribution} {here}. Another major "
            f"version (before 1.0, another minor one) may compute something else with the same tensors: install "
            f"'{distribution}=={major(version)}.*', or train again."
        )


def other_distributions(saved: Any, here: Offers) -> list[str]:
    """What a model has from another distribution than its adapter, in words; data sets are left out.

    Args:
        saved: the `Offers` that were written down, as a file gives them.
        here: those of the model.
    """
    found = []
    for kind, names in here.items():
        before = {_bare(name): _mapping(offer) for name, offer in _mapping(_mapping(saved).get(kind)).items()}
        for name, offer in names.items():
            old = before.get(_bare(name), {})
            if (
                kind in _COMPARED
                and kind != "datasets"
                and old.get("distribution", offer["distribution"]) != offer["distribution"]
            ):
                was, now = (f"{one.get('distribution')} {one.get('version')}" for one in (old, offer))
                found.append(f"'{_bare(name)}' of {was} (here of {now})")
    return found


def _bare(name: str) -> str:
    return name.rpartition(":")[2]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
