"""What a new plugin is called, everywhere it has a name."""

import importlib.metadata
import keyword
import re
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from avcore.errors import AVCoreError
from avcore.registry import Registry
from avcore.specs import BackboneSpec, Spec, TaskSpec

__all__ = ["LONGEST", "Names", "check_free", "make_names"]

LONGEST = 32
"""Characters of a name, without the prefix ``avcore-``; the templates keep their line length up to it."""

_PREFIX = re.compile(r"^avcore[-_]", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of a plugin: ``avcore-my-method``, ``avcore_my_method``, ``my_method``.

    Attributes:
        distribution: what pip installs.
        package: what Python imports.
        name: what users write.
    """

    distribution: str
    package: str
    name: str


def make_names(text: str) -> Names:
    """The names that follow from what the author wrote: ``my-method``, ``avcore-my-method`` and ``my_method`` agree.

    Raises:
        AVCoreError: it is no name, or one that Python or avcore keeps for itself.
    """
    bare = _PREFIX.sub("", text)
    if not _NAME.fullmatch(bare):
        raise AVCoreError(
            f"'{text}' is no name for a plugin: use letters and digits, with single '-' or '_' between them, and a "
            f"letter first, such as my-method."
        )
    if len(bare) > LONGEST:
        raise AVCoreError(f"'{text}' is too long for a name that users write: {LONGEST} characters at most.")
    name = bare.lower().replace("-", "_")
    if keyword.iskeyword(name) or name in ("none", "true", "false"):
        raise AVCoreError(f"'{text}' is no name for a plugin: Python or avcore keeps '{name}' for itself.")
    return Names(distribution=f"avcore-{name.replace('_', '-')}", package=f"avcore_{name}", name=name)


def check_free(names: Names, registry: Registry) -> None:
    """Refuse names that are taken in this environment.

    Raises:
        AVCoreError: a distribution of that name is installed, or a plugin offers something of that name; says which.
    """
    for distribution in importlib.metadata.distributions():
        # One that was half removed has no name.
        installed = distribution.metadata["Name"]
        if installed and canonicalize_name(installed) == names.distribution:
            raise AVCoreError(
                f"'{names.distribution}' is installed already, version {distribution.version}: choose another name, "
                f"or uninstall it first."
            )
    for plugin in registry.plugins:
        for kind, specs in plugin.specs.items():
            offered = {name for spec in specs for name in (spec.name, *_further_names(spec))}
            if names.name in offered:
                raise AVCoreError(
                    f"'{names.name}' is taken: {plugin.distribution} offers it among its {kind}. Choose another name."
                )


def _further_names(spec: Spec) -> tuple[str, ...]:
    if isinstance(spec, BackboneSpec):
        return tuple(spec.presets)
    return spec.aliases if isinstance(spec, TaskSpec) else ()
