"""What a training step costs: estimated from shapes on any machine, and measured where it runs."""

from avcore.bench.estimate import Estimate, estimate, shapes_of

__all__ = ["Estimate", "estimate", "shapes_of"]
