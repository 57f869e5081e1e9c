"""Checkpoints of LAVISH's published code (event localisation, question answering) under avcore's names.

====================================  ===========================================
reference                             avcore
====================================  ===========================================
``vis_adapter_blocks_p1.3.X``         ``lavish.layers.3.p1.visual.X``
``audio_adapter_blocks_p2.3.X``       ``lavish.layers.3.p2.audio.X``
... ``my_tokens``                     ... ``latents``
... ``gate_av``, ``gate``             ... ``latent_gate``, ``gate``
... ``down_sampler``, ``up_sampler``  ... ``down``, ``up``; (o, i, 1, 1) becomes (o, i)
... ``bn1``, ``bn2``                  ... ``norm_down``, ``norm_up``, with their running statistics
... ``ln_before``, ``ln_post``        ... ``norm_before`` (dropped with ``order=avs``), ``norm_post``
``mlp_class``, ``mlp_class_2``        ``head.hidden``, ``head.output``
``question_encoder``, ``fc_gl``, ...  ``head.network``; see `avcore_avqa.convert`
``ViT.v.X``                           ``visual.X``
``swin.X``                            ``visual.X``; ``layers.0.downsample`` becomes ``layers.1.downsample``,
                                      since timm now begins a stage with what it used to end one with
norms of either, with ``norms=true``  ``lavish.backbone.visual.X``
====================================  ===========================================

Dropped, because the reference never uses them: the encoders' classifiers ``ViT.v.head`` and ``swin.head``,
``adapter_token_downsampler``. Shift masks and coordinate tables of ``swin`` follow from its sizes. A leading
``module.``, which data parallel training adds, is ignored.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avcore import AVModel, trainable_state

__all__ = ["bottleneck_key", "convert"]

_BOTTLENECK = {
    "my_tokens": "latents",
    "gate_av": "latent_gate",
    "gate": "gate",
    "down_sampler": "down",
    "up_sampler": "up",
    "bn1": "norm_down",
    "bn2": "norm_up",
    "ln_before": "norm_before",
    "ln_post": "norm_post",
}
_STREAMS = {"vis": "visual", "audio": "audio"}
_HEAD = {"mlp_class": "head.hidden", "mlp_class_2": "head.output"}
_VIT, _SWIN = "ViT.v.", "swin."
_UNUSED = (f"{_VIT}head.", f"{_SWIN}head.", "adapter_token_downsampler.")
_FROM_SIZES = re.compile(r"swin\.layers\..*\.(attn_mask|relative_position_index|relative_coords_table)")
_MERGING = re.compile(r"layers\.(\d+)\.downsample\.")
_PLACE = re.compile(r"(vis|audio)_adapter_blocks_(p[12])\.(\d+)\.")


def bottleneck_key(key: str) -> str | None:
    """The name in `Bottleneck` of a parameter or buffer of the reference's bottleneck; None if it has no such thing."""
    name, dot, rest = key.partition(".")
    return f"{_BOTTLENECK[name]}{dot}{rest}" if name in _BOTTLENECK else None


def convert(state: Mapping[str, Tensor], model: AVModel) -> dict[str, Tensor]:
    """Rename a checkpoint of the reference; see `avcore.MethodSpec.converter`."""
    settings = model.config.parts["lavish"]
    unused = (*_UNUSED, "ln_before.") if settings.order == "avs" else _UNUSED
    own = trainable_state(model)
    made: dict[str, Tensor] = {}
    for official, tensor in state.items():
        key = official.removeprefix("module.")
        place = _PLACE.match(key)
        inner = key[place.end() :] if place else key
        if inner.startswith(unused) or _FROM_SIZES.fullmatch(key):
            continue
        name = _name(key, place, inner)
        if name is None and hasattr(model.head, "published_name"):
            try:
                name = _of_head(key, model)
            except KeyError:
                name = f"unknown.{official}"
            if name is None:
                continue
        if f"lavish.backbone.{name}" in own:  # a norm that was trained
            name = f"lavish.backbone.{name}"
        # 1x1 convolutions are matrices here.
        made[name or f"unknown.{official}"] = tensor.flatten(1) if place and tensor.ndim == 4 else tensor
    # The reference has audio first where a class token is pooled, pictures first on Swin; both have one width.
    tower: Any = model.towers["visual"]
    first = "audio" if tower.layout.pool == "class" else "visual"
    if "head.hidden.weight" in made and getattr(model.config.head.settings, "first", first) != first:
        one, other = made["head.hidden.weight"].chunk(2, dim=1)
        made["head.hidden.weight"] = torch.cat([other, one], dim=1)
    return made


def _of_head(key: str, model: AVModel) -> str | None:
    """The name of a parameter of a head that knows its published ones, AVST's; None if it is never used.

    Raises:
        KeyError: there is no such thing.
    """
    head: Any = model.head
    name: str | None = head.published_name(key, lavish=True)
    return name and f"head.{name}"


def _name(key: str, place: re.Match[str] | None, inner: str) -> str | None:
    if place:
        found = bottleneck_key(inner)
        stream, pair, block = place.groups()
        return found and f"lavish.layers.{block}.{pair}.{_STREAMS[stream]}.{found}"
    if key.startswith(_VIT):
        return f"visual.{key.removeprefix(_VIT)}"
    if key.startswith(_SWIN):
        inside = key.removeprefix(_SWIN)
        return f"visual.{_MERGING.sub(lambda found: f'layers.{int(found[1]) + 1}.downsample.', inside)}"
    name, dot, rest = key.partition(".")
    return f"{_HEAD[name]}{dot}{rest}" if name in _HEAD else None
