"""Runs from Python: `run` trains and measures, `load_run` comes back to what was trained.

The package is called ``runs`` because ``avcore.run`` is the function.
"""

from avcore.runs.base import Run, load_run
from avcore.runs.data import RunData, open_data
from avcore.runs.start import run
from avcore.runs.zeroshot import zero_shot

__all__ = ["Run", "RunData", "load_run", "open_data", "run", "zero_shot"]
