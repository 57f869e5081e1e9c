"""What avcore itself offers under a name, declared as a plugin declares it. Imports no torch."""

from collections.abc import Iterable

from avcore.hookspecs import hookimpl
from avcore.specs import PromptSpec

__all__ = ["avcore_prompts"]


@hookimpl
def avcore_prompts() -> Iterable[PromptSpec]:
    """Parts that several methods list."""
    return [
        PromptSpec(
            name="segment_embedding",
            build="avcore.injection.segments:SegmentEmbedding",
            summary="a trained vector for each segment of a clip, added to all of its tokens",
            identity_at_start=True,
        )
    ]
