"""Published decoder weights under avcore's names.

AVSBench, LAVISH, DG-SCT and STG-CMA share the names of the decoder; LAVISH and STG-CMA add the linear maps. Weights of
the encoders are not the head's and must be left out by the caller.

=============================  ==================================  ============================================
reference                      avcore                              remark
=============================  ==================================  ============================================
``conv1.conv2d_list.0``        ``dilated.0.convolutions.0``        stages count from 0
``tpavi_b1.align_channel``     ``tpavi.0.align``
``tpavi_b1.{g,theta,phi}``     ``tpavi.0.{g,theta,phi}``           (o, i, 1, 1, 1) becomes (o, i)
``tpavi_b1.W_z.0``             ``tpavi.0.out``                     (o, i, 1, 1, 1) becomes (o, i)
``tpavi_b1.W_z.1``             ``tpavi.0.out_norm``                with its running statistics
``tpavi_b1.norm_layer``        ``tpavi.0.norm``
``path1.resConfUnit1.conv1``   ``fusion.0.lateral.conv1``          ``path4.resConfUnit1`` is never used: dropped
``path1.resConfUnit2.conv1``   ``fusion.0.refine.conv1``
``output_conv.{0,2,4}``        ``prediction.conv{1,2,3}``
``x1_linear``                  ``projections.0``                   head only
``audio_linear``               ``audio_projection``                head only
=============================  ==================================  ============================================

In a head, the names of the decoder are preceded by ``decoder.``.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from avcore.errors import AVCoreError

__all__ = ["UNUSED", "from_reference", "rename"]

UNUSED = "path4.resConfUnit1."
"""Weights with this beginning are in the reference's files and never used."""

Pattern = tuple[str, Callable[[re.Match[str]], str]]

_TPAVI = {"align_channel": "align", "W_z.0": "out", "W_z.1": "out_norm", "norm_layer": "norm"}
_PATTERNS: tuple[Pattern, ...] = (
    (r"conv(\d)\.conv2d_list\.(\d)\.", lambda m: f"dilated.{int(m[1]) - 1}.convolutions.{m[2]}."),
    (
        r"tpavi_b(\d)\.(align_channel|g|theta|phi|W_z\.[01]|norm_layer)\.",
        lambda m: f"tpavi.{int(m[1]) - 1}.{_TPAVI.get(m[2], m[2])}.",
    ),
    (r"path(\d)\.resConfUnit1\.", lambda m: f"fusion.{int(m[1]) - 1}.lateral."),
    (r"path(\d)\.resConfUnit2\.", lambda m: f"fusion.{int(m[1]) - 1}.refine."),
    (r"output_conv\.([024])\.", lambda m: f"prediction.conv{int(m[1]) // 2 + 1}."),
)
_HEAD_PATTERNS: tuple[Pattern, ...] = (
    (r"x(\d)_linear\.", lambda m: f"projections.{int(m[1]) - 1}."),
    (r"audio_linear\.", lambda m: "audio_projection."),
)


def rename(key: str, *, head: bool = False) -> str:
    """The name of a reference's parameter in `AVSDecoder`, or with ``head`` in `AVSHead`.

    Raises:
        AVCoreError: no part of the decoder or head has such a name.
    """
    for prefix, patterns in (("decoder." if head else "", _PATTERNS), ("", _HEAD_PATTERNS if head else ())):
        for pattern, replacement in patterns:
            found = re.match(pattern, key)
            if found:
                return prefix + replacement(found) + key[found.end() :]
    raise AVCoreError(f"'{key}' is no weight of AVSBench's decoder{' or its linear maps' if head else ''}.")


def from_reference(weights: Mapping[str, Tensor], *, head: bool = False) -> dict[str, Tensor]:
    """A reference's weights, or gradients, as the state of `AVSDecoder`, or with ``head`` of `AVSHead`.

    Raises:
        AVCoreError: a name that belongs to neither.
    """
    made: dict[str, Tensor] = {}
    for key, value in weights.items():
        if not key.startswith(UNUSED):
            made[rename(key, head=head)] = value.flatten(1) if value.ndim == 5 else value
    return made
