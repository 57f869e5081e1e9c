"""Small models, whose losses are followed where they run.

On the meta device every operation is Python, and takes a hundred times as long as one on a few numbers.
"""

from avcore.assemble import _build
from avcore.backbones import digest
from avcore.config import RunConfig
from avcore.gradients import follow_losses, leave_untrained
from avcore.model import AVModel
from avcore.registry import Registry

__all__ = ["assemble_small"]


def assemble_small(config: RunConfig, registry: Registry) -> AVModel:
    """What `avcore.assemble.assemble` makes, on the CPU; refuses what it refuses."""
    registry = registry.recorded(config.full_names)
    followed = follow_losses(_build(config, registry))
    model = leave_untrained(_build(config, registry), followed)
    model.backbone_digest = digest(model.towers)
    return model
