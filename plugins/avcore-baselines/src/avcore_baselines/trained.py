"""Parts that add nothing to a backbone and train what it has."""

from collections.abc import Mapping

from avcore import Prompt
from avcore.specs import STREAMS, TEXTS

__all__ = ["Bias", "Full", "Norms"]


class Norms(Prompt):
    """Every layer norm of a stream, those within blocks too."""

    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        """See `Part.backbone_parts`."""
        return dict.fromkeys((*STREAMS, *TEXTS), ("*norm*",))


class Bias(Prompt):
    """Every bias of a stream: of linear maps, convolutions and norms (BitFit, arXiv:2106.10199)."""

    def backbone_tensors(self) -> Mapping[str, tuple[str, ...]]:
        """See `Part.backbone_tensors`."""
        return dict.fromkeys((*STREAMS, *TEXTS), ("*bias",))


class Full(Prompt):
    """All of a stream: full fine-tuning."""

    def backbone_tensors(self) -> Mapping[str, tuple[str, ...]]:
        """See `Part.backbone_tensors`."""
        return dict.fromkeys((*STREAMS, *TEXTS), ("*",))
