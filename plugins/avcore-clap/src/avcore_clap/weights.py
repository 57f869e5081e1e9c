"""Pretrained weights into CLAP's towers: from the hub, from a file of either layout, or none on request.

LAION's checkpoints and `ClapModel` of transformers hold both towers in one file; each takes its own.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from avcore.backbones import ask_hub_once, read_tensors, state_faults
from avcore.errors import AVCoreError
from avcore_timm.htsat import htsat_keys

__all__ = ["fill", "from_hub", "projection", "sound_keys", "text_keys"]

_SCALARS = frozenset({"logit_scale", "logit_scale_a", "logit_scale_t"})
"""Of the training's loss."""
_FUSION = ("patch_embed.mel_conv2d.", "patch_embed.fusion_model.")
"""What CLAP merges an input longer than 10 s by."""
_SOUND_PREFIXES = ("audio_branch.", "audio_model.audio_encoder.")
_TEXT_PREFIXES = ("text_branch.", "text_model.")
_PROJECTIONS = {"0": "0", "2": "2", "linear1": "0", "linear2": "2"}

# transformers' names within a block of HTS-AT.
_SOUND_NAMES = (
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".attention.self.relative_position_bias_table", ".attn.relative_position_bias_table"),
    (".attention.self.", ".attn."),
    (".attention.output.dense.", ".attn.proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)
# RoBERTa's names, the same in both layouts.
_TEXT_NAMES = (
    ("embeddings.word_embeddings.", "words."),
    ("embeddings.position_embeddings.", "positions."),
    ("embeddings.token_type_embeddings.", "kinds."),
    ("embeddings.LayerNorm.", "norm."),
    ("encoder.layer.", "blocks."),
    (".attention.self.", "."),
    (".attention.output.dense.", ".proj."),
    (".attention.output.LayerNorm.", ".norm1."),
    (".intermediate.dense.", ".fc1."),
    (".output.dense.", ".fc2."),
    (".output.LayerNorm.", ".norm2."),
    ("pooler.dense.", "pooler."),
)

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def projection(width: int, shared: int) -> nn.Sequential:
    """The map of a tower into the common space: two linear maps and a ReLU between them."""
    return nn.Sequential(nn.Linear(width, shared), nn.ReLU(), nn.Linear(shared, shared))


def fill(
    own: Mapping[str, Tensor],
    weights: str,
    *,
    name: str,
    stream: str,
    hub: str | None,
    rename: Rename,
    fused: bool = True,
) -> tuple[str, ...]:
    """Load a file strictly over the weights of a tower; on the meta device nothing is read.

    Args:
        own: the tower's tensors by name, changed in place. Without ``projection.`` among them, that of the file is left
            out.
        weights: the setting: ``hub``, ``random`` or the path of a file.
        name: what the user wrote.
        stream: whose setting it is.
        hub: the repository that ``hub`` stands for.
        rename: applied to what the file holds.
        fused: whether the front end is that of models with fusion.

    Returns:
        What the user must be told.

    Raises:
        AVCoreError: the file cannot be had, or keys are missing, unexpected or misshapen; says what to pass.
    """
    if torch.empty(0).device.type == "meta":
        return ()
    if weights == "random":
        return (f"'{name}' runs on random weights.",)
    ask = f"Pass a file with --set {stream}.weights=PATH, or ask for --set {stream}.weights=random."
    path = Path(weights)
    if weights == "hub":
        if hub is None:
            raise AVCoreError(f"'{name}' has no weights. {ask}")
        path = from_hub(hub, ("model.safetensors", "pytorch_model.bin"), what=f"The weights of '{name}'", ask=ask)
    read = read_tensors(path, own)
    fuses = any(part in key for key in read for part in _FUSION)
    if fuses and not fused:
        raise AVCoreError(
            f"'{path}' holds a CLAP with fusion, which was trained on other mel filters than '{name}' hears by: name "
            "clap_fused."
        )
    given = rename(read)
    if not any(key.startswith("projection.") for key in own):
        given = {key: tensor for key, tensor in given.items() if not key.startswith("projection.")}
    if faults := state_faults(own, given):
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise AVCoreError(f"'{path}' does not fit '{name}' ({stream}.weights): {shown}.")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(given[key])
    if not fuses or stream != "audio":
        return ()
    return (f"'{name}' leaves the fusion of its weights out: it is for inputs above 10 s, which a segment is not.",)


def from_hub(repository: str, files: tuple[str, ...], *, what: str, ask: str) -> Path:
    """The first of some files that a repository of the hub has, or where it was fetched before.

    Raises:
        AVCoreError: none can be fetched; says ``what`` and ``ask``.
    """
    from huggingface_hub import hf_hub_download

    failed: Exception | None = None
    with ask_hub_once():
        for file in files:
            try:
                return Path(hf_hub_download(repository, file))
            except Exception as error:
                failed = error
    raise AVCoreError(
        f"{what} could not be fetched from '{repository}' ({type(failed).__name__}): no network, or no such file "
        f"there. {ask}"
    ) from failed


def sound_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the tower of sound in a checkpoint, under the names of `ClapSoundTower.weights`.

    Known are LAION's layout (``audio_branch.``, with or without ``module.``) and transformers' of ``ClapModel`` and
    ``ClapAudioModelWithProjection``. The other tower, the classifier, the constants of the spectrogram, the layers of
    fusion and the scalars of the loss are left out; names that are not known stay.
    """
    kept = _of_tower(tensors, _SOUND_PREFIXES, "audio", ("text_", "audio_transform."))
    kept = {key: tensor for key, tensor in kept.items() if not key.startswith(_FUSION)}
    if "batch_norm.weight" not in kept:
        return htsat_keys(kept)
    renamed = {}
    for key, tensor in kept.items():
        if key.startswith("layers."):
            for theirs, ours in _SOUND_NAMES:
                key = key.replace(theirs, ours)
        renamed[re.sub(r"^batch_norm\.", "bn0.", key)] = tensor
    return htsat_keys(_joined(renamed, ".attn."))


def text_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the tower of sentences in a checkpoint, under the names of `ClapTextTower.weights`.

    Known are LAION's layout (``text_branch.``, with or without ``module.``) and transformers' of ``ClapModel`` and
    ``ClapTextModelWithProjection``. The other tower and the scalars of the loss are left out; names that are not known
    stay.
    """
    kept = _of_tower(tensors, _TEXT_PREFIXES, "text", ("audio_", "text_transform."))
    renamed = {}
    for key, tensor in kept.items():
        if key in ("embeddings.position_ids", "embeddings.token_type_ids"):
            continue
        for theirs, ours in _TEXT_NAMES:
            key = key.replace(theirs, ours)
        renamed[key] = tensor
    return _joined(renamed, ".")


def _of_tower(
    tensors: Mapping[str, Tensor], prefixes: tuple[str, ...], side: str, others: tuple[str, ...]
) -> dict[str, Tensor]:
    """One tower's tensors without their prefix, its projection's as ``projection.``; the rest but for ``others``."""
    found = {}
    for key, tensor in tensors.items():
        key = key.removeprefix("module.")
        if key in _SCALARS or key.startswith(others):
            continue
        for prefix in prefixes:
            key = key.removeprefix(prefix)
        split = re.fullmatch(rf"{side}_projection\.(\w+)\.(weight|bias)", key)
        if split is not None and split[1] in _PROJECTIONS:
            key = f"projection.{_PROJECTIONS[split[1]]}.{split[2]}"
        found[key] = tensor
    return found


def _joined(tensors: Mapping[str, Tensor], before: str) -> dict[str, Tensor]:
    """``query``, ``key`` and ``value`` behind ``before`` as one ``qkv``, where all three are there."""
    found = dict(tensors)
    for key in tensors:
        split = re.fullmatch(rf"(.*{re.escape(before)})query\.(weight|bias)", key)
        three = [] if split is None else [f"{split[1]}{one}.{split[2]}" for one in ("query", "key", "value")]
        if split is not None and all(one in tensors for one in three):
            found[f"{split[1]}qkv.{split[2]}"] = torch.cat([found.pop(one) for one in three])
    return found
