"""Checkpoints of the reference code (kaiw7/STG-CMA, CLIP on AVE, any of its modes) under avcore's names.

Shape letters: N tokens, D width.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from avcore import AVModel, parameter_groups

__all__ = ["convert"]

_TRUNK = {
    "conv1.": "patch_embed.proj.",
    "ln_pre.": "norm_pre.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_TABLES = {"class_embedding": "cls_token", "positional_embedding": "pos_embed"}
_SOUND = {"conv1_audio.weight": "kernel", "positional_embedding_audio": "positions_1ND"}
_SEGMENTS = {"temporal_embedding": "visual", "temporal_embedding_audio": "audio"}
_GATES = {"gate_v": "gate_visual", "gate_a": "gate_audio"}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_BOTTLENECK = re.compile(r"(T|S|MLP)_Adapter(_Audio)?\.D_fc([12])\.(weight|bias)")


def convert(state: Mapping[str, Tensor], model: AVModel) -> dict[str, Tensor]:
    """Rename a checkpoint.

    Left out is what the reference makes and never uses: gates where nothing is exchanged, and the other stream's
    embeddings where one stream runs.

    Args:
        state: the reference's state, with or without the ``module.`` of its ``DataParallel``.
        model: the model that it is for.

    Returns:
        Trained tensors under the keys of ``trainable_state(model)``, frozen ones under ``visual.`` and ``audio.``,
        others under ``unknown.``.
    """
    official = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    trunk = next(iter(model.towers))
    head = _head(official, model)
    found: dict[str, Tensor] = {}
    for key, tensor in official.items():
        layer, _, leaf = key.rpartition(".")
        if layer in head:
            found[f"{head[layer]}.{leaf}"] = tensor
        elif layer == "ln_post":
            found[f"stgcma.base.{trunk}.backbone.{trunk}.norm.{leaf}"] = tensor
        elif key in _SEGMENTS:
            if (stream := _SEGMENTS[key]) in model.towers:
                found[f"segment_embedding.{stream}.embedding"] = tensor.reshape(-1, tensor.shape[-1])
        elif key in _SOUND:
            if "audio" in model.towers:
                found[f"audio.{_SOUND[key]}"] = tensor if tensor.dim() == 4 else tensor[None]
        elif key in _TABLES:
            found[f"{trunk}.{_TABLES[key]}"] = tensor.reshape(1, -1, tensor.shape[-1])
        elif match := _BLOCK.fullmatch(key):
            if (name := _in_block(match[1], match[2], trunk, exchange="stgcma.exchange" in model.parts)) is not None:
                found[name] = tensor
        else:
            found[_frozen(trunk, key) or f"unknown.{key}"] = tensor
    return found


def _head(official: Mapping[str, Tensor], model: AVModel) -> dict[str, str]:
    """The reference's layers of the head to those of the model, both in the order in which they run."""
    theirs = {key.rpartition(".")[0] for key in official if key.startswith("mlp_head.")}
    ours = dict.fromkeys(name.rpartition(".")[0] for name, _ in parameter_groups(model)["head"])
    return dict(zip(sorted(theirs), ours, strict=False))


def _in_block(number: str, key: str, trunk: str, *, exchange: bool) -> str | None:
    """The name of a block's tensor; None for a gate that is never used."""
    if key in _GATES:
        return f"stgcma.exchange.layers.{number}.{_GATES[key]}" if exchange else None
    if match := _BOTTLENECK.fullmatch(key):
        kind, of_audio, layer, leaf = match.groups()
        stream = "audio" if of_audio else "visual"
        tail = f"{'down' if layer == '1' else 'up'}.{leaf}"
        if kind == "T":
            return f"stgcma.temporal.{stream}.layers.{number}.bottleneck.{tail}"
        place = "spatial" if kind == "S" else "mlp"
        if exchange:
            return f"stgcma.exchange.layers.{number}.{place}_{stream}.{tail}"
        return f"stgcma.bottlenecks.{stream}.layers.{number}.{place}_bottleneck.{tail}"
    return _frozen(f"{trunk}.blocks.{number}", key) or f"unknown.transformer.resblocks.{number}.{key}"


def _frozen(prefix: str, key: str) -> str | None:
    for theirs, ours in _TRUNK.items():
        if key.startswith(theirs):
            return f"{prefix}.{ours}{key.removeprefix(theirs)}"
    return None
