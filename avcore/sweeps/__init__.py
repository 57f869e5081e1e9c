"""Many runs: a grid of them in one file, what became of each, and tables that compare them.

`grid` reads the file, `folder` what lies on disk, `launch` runs what is missing, `compare` makes the tables. Imports no
torch, but where runs are launched on GPUs.
"""

from avcore.sweeps.folder import Sweep, SweptRun
from avcore.sweeps.grid import Grid, Row, find_grid, grid_from, load_grid, shipped_grids

__all__ = ["Grid", "Row", "Sweep", "SweptRun", "find_grid", "grid_from", "load_grid", "shipped_grids"]
