"""Pretrained weights into a text tower: from open_clip's hub, from a file, or none on request."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from avcore.backbones import ask_hub_once, read_tensors, state_faults
from avcore.errors import AVCoreError

__all__ = ["hub_file", "load_file", "text_keys"]

_OTHERS = ("visual.", "vision_model.", "visual_projection.")
"""Prefixes of the tower for pictures."""
_SCALARS = frozenset({"logit_scale", "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size"})
"""What belongs to no tower, or follows from the sizes."""
_HUGGING_FACE = (
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.final_layer_norm.", "ln_final."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".self_attn.", ".attn."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
_ASK = "Pass a file with --set text.weights=PATH, or ask for --set text.weights=random."


def hub_file(name: str, *, quick_gelu: bool) -> Path:
    """Fetch the checkpoint that open_clip knows by ``model.tag``, or find it where it was fetched before.

    Args:
        name: what the user wrote.
        quick_gelu: whether the model has OpenAI's activation.

    Raises:
        AVCoreError: the name has no tag or one that is not known, the weights were trained with another activation, or
            they cannot be fetched.
    """
    import open_clip

    model, _, tag = name.partition(".")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not tags:
        raise AVCoreError(f"open_clip has no weights of '{model}'. {_ASK}")
    if tag not in tags:
        named = f"open_clip has no weights '{tag}' of '{model}'" if tag else f"'{name}' does not say which weights"
        raise AVCoreError(f"{named}: write {', '.join(f'{model}.{one}' for one in tags)}. Or: {_ASK}")
    known = open_clip.get_pretrained_cfg(model, tag)
    trained = bool(known.get("quick_gelu"))
    if trained != quick_gelu:
        other = f"{model}-quickgelu" if trained else model.removesuffix("-quickgelu")
        how = "with" if trained else "without"
        raise AVCoreError(f"The weights '{tag}' were trained {how} OpenAI's activation: write '{other}.{tag}'.")
    try:
        with ask_hub_once():
            return Path(open_clip.download_pretrained(known))
    except Exception as error:
        raise AVCoreError(
            f"The weights of '{name}' could not be fetched ({type(error).__name__}): no network, or no such file "
            f"there. {_ASK}"
        ) from error


def load_file(model: nn.Module, path: Path, *, name: str) -> None:
    """Load a file strictly into a text transformer; see `text_keys` for the layouts.

    Raises:
        AVCoreError: it cannot be read, or keys are missing, unexpected or misshapen; they are named.
    """
    own = model.state_dict()
    try:
        found = text_keys(read_tensors(path, own))
    except KeyError as error:
        raise AVCoreError(f"'{path}' does not fit the text tower '{name}': missing {error.args[0]}.") from error
    faults = state_faults(own, found)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise AVCoreError(f"'{path}' does not fit the text tower '{name}': {shown}.")
    model.load_state_dict({key: value.float() for key, value in found.items()}, strict=True)


def text_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the text tower in a checkpoint, under the names of open_clip's text transformer.

    Three layouts are known: open_clip's CLIP (and OpenAI's, the same), where the text tower lies beside ``visual.``;
    open_clip's models with a ``text.`` of its own; Hugging Face's ``CLIPModel`` and ``CLIPTextModelWithProjection``.
    The tower for pictures and the scalars of the loss are left out; names that are not known stay.

    Raises:
        KeyError: queries, keys and values of a block are not complete.
    """
    kept = {key: value for key, value in tensors.items() if not key.startswith(_OTHERS) and key not in _SCALARS}
    if any(key.startswith("text_model.") for key in kept):
        return _from_hugging_face(kept)
    if "text.token_embedding.weight" in kept:
        kept = {key.removeprefix("text."): value for key, value in kept.items()}
    return {key: value for key, value in kept.items() if key != "attn_mask"}


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key == "text_model.embeddings.position_ids":
            continue
        for theirs, ours in _HUGGING_FACE:
            key = key.replace(theirs, ours)
        if key == "text_projection.weight":
            key, tensor = "text_projection", tensor.T.contiguous()
        renamed[key] = tensor
    found: dict[str, Tensor] = {}
    for key, tensor in renamed.items():
        split = re.fullmatch(r"(.*\.attn\.)[qkv]_proj\.(weight|bias)", key)
        if split is None:
            found[key] = tensor
            continue
        joined = f"{split[1]}in_proj_{split[2]}"
        if joined not in found:
            found[joined] = torch.cat([renamed[f"{split[1]}{one}_proj.{split[2]}"] for one in "qkv"])
    return found
