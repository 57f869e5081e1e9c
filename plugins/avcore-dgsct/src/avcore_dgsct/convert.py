"""Checkpoints of DG-SCT's published code (AVE, AVSBench, AVVP, AVQA) under avcore's names.

=========================================  =================================================================
reference                                  avcore
=========================================  =================================================================
``vis_adapter_blocks_p1.3.X``              ``dgsct.layers.<visual block of pair 3>.p1.visual.X``
``audio_adapter_blocks_p2.3.X``            ``dgsct.layers.<visual block of pair 3>.p2.audio.X``
... ``my_tokens``, ``gate_av``, ``gate``   ... ``latents``, ``latent_gate``, ``gate``
... ``conv_adapter``, ``fc``               ... ``align.tokens``, ``align.width``
... ``fc_affine_{video,audio}_1``          ... ``guidance.channel_{own,other}``
... ``fc_affine_bottleneck``, ``_v_c_att``  ... ``guidance.channel_squeeze``, ``channel_gate``
... ``fc_affine_{video,audio}_2``          ... ``guidance.token_{own,other}``
... ``fc_affine_v_s_att``                  ... ``guidance.token_score``
... ``temporal_gated.0``                   ... ``guidance.segment_gate``
... ``down_sampler``, ``up_sampler``       ... ``down``, ``up``; (o, i, 1, 1) becomes (o, i)
... ``bn1``, ``bn2``                       ... ``norm_down``, ``norm_up``, with their running statistics
... ``ln_before``, ``ln_post``             ... ``norm_before``, ``norm_post``
``temporal_attn``, ``CMBS``, decoder, MGN  ``head``; see `convert_heads`
``question_encoder``, ``fc_gl``, ...       ``head.network``; see `avcore_avqa.convert`
``swin.X``, ``htsat.X``                    ``visual.X``, ``audio.X``; ``layers.0.downsample`` becomes
                                           ``layers.1.downsample``, since timm now begins a stage with it
=========================================  =================================================================

Dropped, because the reference never uses it: `gate_tk`, layers to copy from, the encoders' classifiers and what
`bottleneck_key` and the heads' tables leave out; and the constants of the spectrogram, which are computed here. A
leading ``module.``, which data parallel training adds, is ignored.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from avcore import AVModel
from avcore_dgsct.ave import AVEHead
from avcore_dgsct.avs import AVSHead
from avcore_dgsct.avvp import AVVPHead
from avcore_dgsct.convert_heads import ave_head_key, avs_head_key, avvp_head_key
from avcore_dgsct.settings import DGSCTSettings

__all__ = ["bottleneck_key", "convert"]

_BOTTLENECK = {
    "my_tokens": "latents",
    "gate_av": "latent_gate",
    "gate": "gate",
    "conv_adapter": "align.tokens",
    "fc": "align.width",
    "fc_affine_video_1": "guidance.channel_own",
    "fc_affine_audio_1": "guidance.channel_other",
    "fc_affine_bottleneck": "guidance.channel_squeeze",
    "fc_affine_v_c_att": "guidance.channel_gate",
    "fc_affine_video_2": "guidance.token_own",
    "fc_affine_audio_2": "guidance.token_other",
    "fc_affine_v_s_att": "guidance.token_score",
    "temporal_gated.0": "guidance.segment_gate",
    "down_sampler": "down",
    "up_sampler": "up",
    "bn1": "norm_down",
    "bn2": "norm_up",
    "ln_before": "norm_before",
    "ln_post": "norm_post",
}
_STREAMS = {"vis": "visual", "audio": "audio"}
_PLACE = re.compile(r"(vis|audio)_adapter_blocks_(p[12])\.(\d+)\.")
_ENCODERS = {"swin.": "visual.", "htsat.": "audio."}
_UNUSED = (
    "adapter_token_downsampler.",
    "swin.head.",
    *(f"htsat.{name}." for name in ("head", "tscam_conv", "spectrogram_extractor", "logmel_extractor")),
)
_FROM_SIZES = ("attn_mask", "relative_position_index", "relative_coords_table")
_MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")
_HEADS: dict[type, Callable[[str], str | None]] = {
    AVEHead: ave_head_key,
    AVSHead: avs_head_key,
    AVVPHead: avvp_head_key,
}


def bottleneck_key(key: str, settings: DGSCTSettings) -> str | None:
    """The name in `Bottleneck` of a parameter or buffer; None if the code for these settings never uses it.

    Raises:
        KeyError: the bottleneck has no such thing.
    """
    unused = {
        "gate_tk": True,
        "ln_before": settings.order == "avs",
        "conv_adapter": settings.align == "resize",
        "temporal_gated.0": not settings.temporal_gate,
    }
    name = next((name for name in ("gate_tk", *_BOTTLENECK) if key == name or key.startswith(f"{name}.")), None)
    if name is None:
        raise KeyError(key)
    return None if unused.get(name) else _BOTTLENECK[name] + key.removeprefix(name)


def convert(state: Mapping[str, Tensor], model: AVModel) -> dict[str, Tensor]:
    """Rename a checkpoint of the reference; see `avcore.MethodSpec.converter`."""
    made: dict[str, Tensor] = {}
    for official, tensor in state.items():
        key = official.removeprefix("module.")
        try:
            name = None if key.startswith(_UNUSED) else _name(key, model)
        except KeyError:
            name = f"unknown.{official}"
        if name is not None:
            # Convolutions of one point are matrices here.
            pointwise = tensor.ndim == 5 or (tensor.ndim == 4 and _PLACE.match(key))
            made[name] = tensor.flatten(1) if pointwise else tensor
    return made


def _name(key: str, model: AVModel) -> str | None:
    for encoder, stream in _ENCODERS.items():
        if key.startswith(encoder):
            return _frozen_key(stream, key.removeprefix(encoder))
    place = _PLACE.match(key)
    if place:
        return _bottleneck_name(place, key[place.end() :], model)
    head: Any = model.head
    # AVST's knows its published names by itself.
    renamed = _HEADS.get(type(head), getattr(head, "published_name", None))
    if renamed is None:
        raise KeyError(key)
    name = renamed(key)
    return name and f"head.{name}"


def _frozen_key(stream: str, key: str) -> str | None:
    if key.rpartition(".")[2] in _FROM_SIZES:
        return None
    return stream + _MERGING.sub(lambda found: f"layers.{int(found[1]) + 1}.downsample.", key)


def _bottleneck_name(place: re.Match[str], inner: str, model: AVModel) -> str | None:
    stream, pair, number = place.groups()
    # The reference counts pairs, avcore names them by their visual block.
    layers = list(model.parts["dgsct"].layers)
    if int(number) >= len(layers):
        raise KeyError(place.string)
    name = bottleneck_key(inner, model.config.parts["dgsct"])
    return name and f"dgsct.layers.{layers[int(number)]}.{pair}.{_STREAMS[stream]}.{name}"
