"""Names of Swin Transformers that timm knows, with their sizes; torch-free: plugins are listed without torch."""

from collections.abc import Mapping
from typing import Any

__all__ = ["SWINV2_PRESETS", "SWIN_PRESETS", "TEST_SWIN", "TEST_SWINV2"]

_SIZES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
"""Width of the first stage, blocks and heads of each stage."""


def _swin(size: str, window: int, picture: int) -> Mapping[str, Any]:
    width, depths, heads = _SIZES[size]
    return {"width": width, "depths": depths, "heads": heads, "window": window, "patch": 4, "size": picture}


_BOTH = ("base", "large")

SWIN_PRESETS = {
    **{f"swin_{size}_patch4_window7_224": _swin(size, 7, 224) for size in _SIZES},
    **{f"swin_{size}_patch4_window12_384": _swin(size, 12, 384) for size in _BOTH},
    **{f"swin_{size}_patch4_window7_224.ms_in22k": _swin(size, 7, 224) for size in _BOTH},
}

SWINV2_PRESETS = {
    **{f"swinv2_{size}_window{w}_256": _swin(size, w, 256) for size in ("tiny", "small", "base") for w in (8, 16)},
    **{f"swinv2_{size}_window12_192{tag}": _swin(size, 12, 192) for size in _BOTH for tag in ("", ".ms_in22k")},
    **{f"swinv2_{size}_window12to16_192to256": _swin(size, 16, 256) for size in _BOTH},
    **{f"swinv2_{size}_window12to24_192to384": _swin(size, 24, 384) for size in _BOTH},
}

# Small enough to be tested in a second: windows of 4 x 4 on grids of 16 and 8, the second block of a stage shifted;
# then grids that one window covers.
_SMALL: Mapping[str, Any] = {
    "img_size": 64,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (2, 2, 3, 1),
    "num_heads": (1, 2, 4, 8),
}
TEST_SWIN = {"model": "swin_tiny_patch4_window7_224", "arguments": _SMALL}
TEST_SWINV2 = {"model": "swinv2_tiny_window8_256", "arguments": _SMALL}
