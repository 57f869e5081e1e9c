"""Checkpoints of LAVISH's published code (event localisation with a ViT) under avcore's names.

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
``ViT.v.X``                           ``visual.X``; the classifier ``ViT.v.head`` is never used: dropped
====================================  ===========================================

A leading ``module.``, which data parallel training adds, is ignored.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from avcore import AVModel

__all__ = ["adapter_key", "convert"]

_ADAPTER = {
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
_TRUNK, _CLASSIFIER = "ViT.v.", "ViT.v.head."
_PLACE = re.compile(r"(vis|audio)_adapter_blocks_(p[12])\.(\d+)\.")


def adapter_key(key: str) -> str | None:
    """The name in `Adapter` of a parameter or buffer of the reference's adapter; None if it has no such thing."""
    name, dot, rest = key.partition(".")
    return f"{_ADAPTER[name]}{dot}{rest}" if name in _ADAPTER else None


def convert(state: Mapping[str, Tensor], model: AVModel) -> dict[str, Tensor]:
    """Rename a checkpoint of the reference; see `avcore.MethodSpec.converter`."""
    settings = model.config.parts["lavish"]
    unused = (_CLASSIFIER, "ln_before.") if settings.order == "avs" else (_CLASSIFIER,)
    made: dict[str, Tensor] = {}
    for official, tensor in state.items():
        key = official.removeprefix("module.")
        place = _PLACE.match(key)
        inner = key[place.end() :] if place else key
        if inner.startswith(unused):
            continue
        name = _name(key, place, inner)
        # 1x1 convolutions are matrices here.
        made[name or f"unknown.{official}"] = tensor.flatten(1) if place and tensor.ndim == 4 else tensor
    if "head.hidden.weight" in made and getattr(model.config.head.settings, "first", "audio") == "visual":
        # The reference's ViT has audio first; both streams have one width.
        audio, visual = made["head.hidden.weight"].chunk(2, dim=1)
        made["head.hidden.weight"] = torch.cat([visual, audio], dim=1)
    return made


def _name(key: str, place: re.Match[str] | None, inner: str) -> str | None:
    if place:
        found = adapter_key(inner)
        stream, pair, block = place.groups()
        return found and f"lavish.layers.{block}.{pair}.{_STREAMS[stream]}.{found}"
    if key.startswith(_TRUNK):
        return f"visual.{key.removeprefix(_TRUNK)}"
    name, dot, rest = key.partition(".")
    return f"{_HEAD[name]}{dot}{rest}" if name in _HEAD else None
