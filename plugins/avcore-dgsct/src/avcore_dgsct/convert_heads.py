"""Names of DG-SCT's heads in its published code, and avcore's.

In segmentation ``temporal_attn`` has each module four times, once for each scale; those names continue with ``.0`` to
``.3`` where event localisation has nothing.

====================================================  ====================================================
reference, ``temporal_attn.``                         avcore, ``temporal.`` or ``temporal.scales.<scale>.``
====================================================  ====================================================
``v_fc``, ``a_fc``                                    ``visual_in``, ``audio_in``
``audio_visual_rnn_layer.visual_rnn``                 ``visual.lstm``
``video_encoder.affine_matrix``                       ``visual.affine``
``video_encoder.encoder``                             ``visual.transformer``
``video_gated.0``                                     ``visual.gate``
``video_decoder.affine_matrix``                       ``visual_decoder.affine``
``video_decoder.decoder.layers.0.multihead_attn``     ``visual_decoder.attention``
... ``linear1``, ``linear2``, ``norm1``, ``norm2``    ... ``up``, ``down``, ``norm_attention``, ``norm_mlp``
the same with ``audio``                               the same with ``audio``
====================================================  ====================================================

``CMBS.{video,audio}_cas`` becomes ``localisation.{visual,audio}_score``, ``CMBS.localize_module.classifier`` and
``event_classifier`` become ``localisation.is_event`` and ``event``. The decoder's names are those of `avcore_avs`,
MGN's those of `avcore_avvp`.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from avcore import AVCoreError
from avcore_avs.convert import UNUSED as UNUSED_IN_DECODER
from avcore_avs.convert import rename
from avcore_avvp.mgn.convert import rename as rename_in_mgn

__all__ = [
    "ave_head_key",
    "ave_head_keys",
    "avs_head_key",
    "avs_head_keys",
    "avvp_head_key",
    "avvp_head_keys",
    "temporal_key",
]

_STREAMS = {"v": "visual", "a": "audio", "video": "visual", "visual": "visual", "audio": "audio"}
_DECODER = {
    "multihead_attn": "attention",
    "linear1": "up",
    "linear2": "down",
    "norm1": "norm_attention",
    "norm2": "norm_mlp",
}
_SCALE = r"(?:\.(?P<scale>\d))?"
_TEMPORAL = tuple(
    (re.compile(rf"temporal_attn\.{pattern}\."), ours)
    for pattern, ours in (
        (rf"(?P<stream>[va])_fc{_SCALE}", "{stream}_in."),
        (rf"audio_visual_rnn_layer{_SCALE}\.(?P<stream>visual|audio)_rnn", "{stream}.lstm."),
        (rf"(?P<stream>video|audio)_encoder{_SCALE}\.affine_matrix", "{stream}.affine."),
        (rf"(?P<stream>video|audio)_encoder{_SCALE}\.encoder", "{stream}.transformer."),
        (rf"(?P<stream>video|audio)_gated{_SCALE}\.0", "{stream}.gate."),
        (r"(?P<stream>video|audio)_decoder\.affine_matrix", "{stream}_decoder.affine."),
        (rf"(?P<stream>video|audio)_decoder\.decoder\.layers\.0\.(?P<leaf>{'|'.join(_DECODER)})", "{stream}_decoder."),
    )
)
_LOCALISATION = {
    "CMBS.video_cas.": "localisation.visual_score.",
    "CMBS.audio_cas.": "localisation.audio_score.",
    "CMBS.localize_module.classifier.": "localisation.is_event.",
    "CMBS.localize_module.event_classifier.": "localisation.event.",
}
_AVE_UNUSED = re.compile(
    r"CMBS\.(AVInter|VAInter|audio_norm|video_norm)\."
    r"|temporal_attn\.(video|audio)_(encoder\.encoder_layer|decoder\.(decoder_layer|decoder\.layers\.0\.self_attn))\."
)
_AVS_UNUSED = re.compile(
    r"conv\d\.|x\d_linear\."
    r"|temporal_attn\.(video|audio)_(decoder\.|encoder\.\d\.encoder_layer\.)"
    rf"|{re.escape(UNUSED_IN_DECODER)}"
)

_AVVP_UNUSED = re.compile(
    r"temporal_attn\.(video_(encoder|gated)|audio_visual_rnn_layer\.visual_rnn|audio_encoder\.encoder_layer)\."
)


def ave_head_key(key: str) -> str | None:
    """The name in `AVEHead` of a parameter; None if the reference never uses it.

    Raises:
        KeyError: the head has no such parameter.
    """
    if _AVE_UNUSED.match(key):
        return None
    for theirs, ours in _LOCALISATION.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return temporal_key(key)


def avs_head_key(key: str) -> str | None:
    """The name in `AVSHead` of a parameter; None if the reference never uses it.

    Raises:
        KeyError: the head has no such parameter.
    """
    if _AVS_UNUSED.match(key):
        return None
    if key.startswith("temporal_attn."):
        return temporal_key(key)
    try:
        return rename(re.sub(r"^(x\d_linear)_\.", r"\1.", key), head=True)
    except AVCoreError:
        raise KeyError(key) from None


def avvp_head_key(key: str) -> str | None:
    """The name in `AVVPHead` of a parameter; None if the reference never uses it.

    Raises:
        KeyError: the head has no such parameter.
    """
    if _AVVP_UNUSED.match(key):
        return None
    return temporal_key(key) if key.startswith("temporal_attn.") else rename_in_mgn(key)


def ave_head_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients under the names of `AVEHead`, without those that are never used."""
    return {name: tensor for key, tensor in tensors.items() if (name := ave_head_key(key)) is not None}


def avs_head_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients under the names of `AVSHead`, without those that are never used."""
    return {
        # TPAVI's 1x1x1 convolutions are matrices here.
        name: tensor.flatten(1) if tensor.ndim == 5 else tensor
        for key, tensor in tensors.items()
        if (name := avs_head_key(key)) is not None
    }


def avvp_head_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients under the names of `AVVPHead`, without those that are never used."""
    return {name: tensor for key, tensor in tensors.items() if (name := avvp_head_key(key)) is not None}


def temporal_key(key: str) -> str:
    """The name of a parameter of ``temporal_attn`` in a head whose temporal module is ``temporal``.

    Raises:
        KeyError: there is no such parameter.
    """
    for pattern, ours in _TEMPORAL:
        found = pattern.match(key)
        if found:
            named = found.groupdict()
            scale = "" if named.get("scale") is None else f"scales.{named['scale']}."
            leaf = f"{_DECODER[named['leaf']]}." if "leaf" in named else ""
            return f"temporal.{scale}{ours.format(stream=_STREAMS[named['stream']])}{leaf}{key[found.end() :]}"
    raise KeyError(key)
