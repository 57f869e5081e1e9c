"""Whole distributions of new plugins, written from templates: what ``avcore plugins new`` makes. Imports no torch."""

from avcore.scaffold.kinds import KINDS, Kind
from avcore.scaffold.names import LONGEST, Names, check_free, make_names
from avcore.scaffold.render import render, run_command, write

__all__ = ["KINDS", "LONGEST", "Kind", "Names", "check_free", "make_names", "render", "run_command", "write"]
