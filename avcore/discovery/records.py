"""What became of a plugin, which plugins may be imported, and the kinds of things that they declare."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from packaging.utils import canonicalize_name

from avcore.errors import AVCoreError, PluginError, did_you_mean
from avcore.specs import (
    BackboneSpec,
    DatasetSpec,
    FusionSpec,
    HeadSpec,
    MethodSpec,
    PromptSpec,
    Spec,
    TaskSpec,
)

__all__ = ["FOUNDATIONS", "KINDS", "LoadedPlugin", "PluginPolicy", "one_line"]

FOUNDATIONS = ("torch", "timm", "numpy", "av")
"""What plugins build on, and may not import before it is needed."""
LONGEST = 400
"""Characters of a stranger's message that are shown in one line."""

KINDS: Mapping[str, type[Spec]] = {
    "backbones": BackboneSpec,
    "prompts": PromptSpec,
    "fusions": FusionSpec,
    "heads": HeadSpec,
    "tasks": TaskSpec,
    "datasets": DatasetSpec,
    "methods": MethodSpec,
}
"""What a plugin can declare: ``avcore_<kind>`` returns records of this type."""


@dataclass(frozen=True, kw_only=True)
class LoadedPlugin:
    """What became of one installed plugin.

    Attributes:
        distribution, version: of the installed package.
        entry_point: its name in the group ``avcore.plugins``.
        module: the light module that it points to.
        origin: the folder that it is installed in, or that an editable install points to.
        state: ``ok``; ``broken`` (see ``error`` and ``traceback``); ``blocked`` (not imported, ``error`` says by what).
        import_ms: time of the import and of the declarations, ms.
        heavy: packages that the light module should not have imported, and did.
        specs: what it declares, kind -> records; empty unless ``ok``.
        plugin: the imported module; None unless ``ok``.
    """

    distribution: str
    version: str
    entry_point: str = ""
    module: str = ""
    origin: str = ""
    state: Literal["ok", "broken", "blocked"] = "ok"
    error: str = ""
    traceback: str = field(default="", repr=False)
    import_ms: float = 0.0
    heavy: tuple[str, ...] = ()
    specs: Mapping[str, tuple[Spec, ...]] = field(default_factory=dict, repr=False)
    plugin: Any = field(default=None, repr=False, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many records of each kind it declares."""
        return {kind: len(self.specs.get(kind, ())) for kind in KINDS}

    @property
    def problem(self) -> str:
        """One sentence about what the author should mend; ``""`` where nothing is wrong or nothing was looked at."""
        if self.state == "broken":
            return f"is broken: {self.error.rstrip('.')}."
        if self.heavy:
            return f"imports {', '.join(self.heavy)} when it is loaded: every command starts slowly."
        return ""


@dataclass(frozen=True, kw_only=True)
class PluginPolicy:
    """Which plugins may be imported, and whether a broken one stops everything.

    Attributes:
        allow: canonical distribution names; None allows all.
        block: canonical distribution names that are never imported; wins over ``allow``.
        strict: a plugin that is broken or heavy raises, and so does one whose lifecycle hook fails.
    """

    allow: frozenset[str] | None = None
    block: frozenset[str] = frozenset()
    strict: bool = False

    @classmethod
    def from_environment(cls) -> "PluginPolicy":
        """Read ``AVCORE_PLUGINS``, ``AVCORE_BLOCK`` (comma-separated) and ``AVCORE_STRICT_PLUGINS`` (1)."""

        def names(variable: str) -> frozenset[str]:
            listed = os.environ.get(variable, "").split(",")
            return frozenset(canonicalize_name(name.strip()) for name in listed if name.strip())

        return cls(
            allow=names("AVCORE_PLUGINS") or None,
            block=names("AVCORE_BLOCK"),
            strict=os.environ.get("AVCORE_STRICT_PLUGINS", "") not in ("", "0"),
        )

    def objection(self, distribution: str) -> str:
        """Why a distribution may not be imported, or ``""``."""
        name = canonicalize_name(distribution)
        if name in self.block:
            return "blocked by --block or AVCORE_BLOCK"
        if self.allow is not None and name not in self.allow:
            return "not among AVCORE_PLUGINS"
        return ""

    def check(self, installed: Iterable[str]) -> None:
        """Raise AVCoreError for a name that no installed plugin has."""
        known = {str(canonicalize_name(name)) for name in installed}
        for source, names in (("AVCORE_PLUGINS", self.allow or ()), ("--block or AVCORE_BLOCK", self.block)):
            for name in sorted(set(names) - known):
                raise PluginError(
                    f"{source} names '{name}', but no such plugin is installed.{did_you_mean(name, known)} "
                    f"Installed: {', '.join(sorted(known)) or 'none'}."
                )


def one_line(error: BaseException) -> str:
    """An exception in one line, with its type unless it is avcore's own; a stranger's message may be cut."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its message cannot be printed)"
    if isinstance(error, AVCoreError):
        return text
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
