"""Pretrained weights into a timm model: from timm's hub, from a file, or none on request."""

from pathlib import Path
from typing import TYPE_CHECKING

from avcore.backbones import read_tensors, state_faults
from avcore.errors import AVCoreError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

__all__ = ["load_file"]


def load_file(model: "VisionTransformer", path: Path, *, setting: str) -> None:
    """Load a file strictly into a timm Vision Transformer without classifier.

    The file's classifier is left out, since avcore's heads take its place; timm's own filter resizes position vectors
    and renames the keys of the checkpoints it knows.

    Raises:
        AVCoreError: keys are missing, unexpected or misshapen; they are named.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    tensors = read_tensors(path)
    config = getattr(model, "pretrained_cfg", None) or {}
    classifier = config.get("classifier") or "head"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = {key: value for key, value in tensors.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    own = model.state_dict()
    try:
        filtered = {key: value.float() for key, value in checkpoint_filter_fn(kept, model).items()}
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise AVCoreError(f"'{path}' does not fit this backbone ({setting}): {error}") from error
    faults = state_faults(own, filtered)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise AVCoreError(f"'{path}' does not fit this backbone ({setting}): {shown}.")
    model.load_state_dict(filtered, strict=True)
