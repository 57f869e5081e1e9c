"""What a training step costs: estimated from shapes on any machine, and measured where it runs."""

from avcore.bench.bare import BARE, bare_of
from avcore.bench.data import bench_data
from avcore.bench.estimate import Estimate, estimate, shapes_of
from avcore.bench.memory import bench_memory, bytes_of
from avcore.bench.record import compared, render
from avcore.bench.startup import bench_startup
from avcore.bench.step import bench_step

__all__ = [
    "BARE",
    "Estimate",
    "bare_of",
    "bench_data",
    "bench_memory",
    "bench_startup",
    "bench_step",
    "bytes_of",
    "compared",
    "estimate",
    "render",
    "shapes_of",
]
