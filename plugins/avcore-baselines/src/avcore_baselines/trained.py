"""Parts that add nothing to a backbone and train what it has."""

from collections.abc import Mapping

from avcore import Prompt
from avcore.specs import STREAMS, TEXTS

__all__ = ["Norms"]


class Norms(Prompt):
    """Every layer norm of a stream, those within blocks too."""

    def backbone_parts(self) -> Mapping[str, tuple[str, ...]]:
        """See `Part.backbone_parts`."""
        return dict.fromkeys((*STREAMS, *TEXTS), ("*norm*",))
