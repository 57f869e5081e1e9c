"""Cases that need no model: the package, the settings of a spec, a method."""

from dataclasses import dataclass
from functools import cached_property

from avcore.registry import Registry
from avcore.specs import MethodSpec, Spec
from avcore.testing.subject import Subject

__all__ = ["MethodCase", "PackageCase", "SettingsCase"]


@dataclass(frozen=True)
class PackageCase:
    """The distribution."""

    subject: Subject


@dataclass(frozen=True)
class SettingsCase:
    """The settings of one thing that a plugin offers."""

    subject: Subject
    spec: Spec


@dataclass(frozen=True)
class MethodCase:
    """A method, beside everything that is installed: its recipes may be for tasks of any plugin."""

    subject: Subject
    spec: MethodSpec

    @cached_property
    def registry(self) -> Registry:
        """Of all installed plugins; of those under test alone where they are not installed."""
        if not self.subject.installed:
            return Registry.from_modules(self.subject.modules)
        return Registry.from_modules({**self.subject.beside, **self.subject.modules})
