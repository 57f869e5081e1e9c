"""What the checks look at: one case for each thing that a plugin offers, with what is costly to make made once."""

from avcore.testing.cases.backbones import BackboneCase
from avcore.testing.cases.datasets import DatasetCase
from avcore.testing.cases.heads import HeadCase, TaskCase
from avcore.testing.cases.parts import PartCase, Setup
from avcore.testing.cases.plain import MethodCase, PackageCase, SettingsCase

__all__ = [
    "BackboneCase",
    "DatasetCase",
    "HeadCase",
    "MethodCase",
    "PackageCase",
    "PartCase",
    "SettingsCase",
    "Setup",
    "TaskCase",
]
