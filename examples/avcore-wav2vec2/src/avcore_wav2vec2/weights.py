"""Weights into a wav2vec 2.0: from torchaudio's published files, from a file, or none on request."""

from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from avcore import AVCoreError
from avcore.backbones import read_tensors, state_faults

__all__ = ["fill", "own_keys"]

PUBLISHED = "https://download.pytorch.org/torchaudio/models/"

_CONV = "encoder.transformer.pos_conv_embed.conv."
_FACTORS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
"""Length and direction of the positional kernel: as the published files call them, and as torchaudio's modules do."""


def own_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchaudio's tensors as the frozen encoder holds them: no classifier, the positional kernel multiplied out.

    Unknown names stay as they are, and so do tensors that have been through here.
    """
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("aux.")}
    for length, direction in _FACTORS:
        if _CONV + length in kept and _CONV + direction in kept:
            g, v = kept.pop(_CONV + length), kept.pop(_CONV + direction)
            # Weight normalisation (arXiv:1602.07868) of each place of the kernel, the last axis.
            kept[_CONV + "weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))
    return kept


def fill(own: Mapping[str, Tensor], weights: str, *, name: str, published: str | None) -> tuple[str, ...]:
    """Load weights strictly over those of a backbone; on the meta device nothing is read.

    Args:
        own: the backbone's tensors by name, changed in place.
        weights: the setting: ``hub``, ``random``, or the path of a file.
        name: of the backbone.
        published: the file that ``hub`` stands for; None if there is none.

    Returns:
        What the user must be told.

    Raises:
        AVCoreError: the file cannot be had or read, or keys are missing, unexpected or misshapen; names all.
    """
    if torch.empty(0).device.type == "meta":
        return ()
    if weights == "random":
        return (f"'{name}' runs on random weights.",)
    file = _published_file(name, published) if weights == "hub" else Path(weights)
    given = own_keys(read_tensors(file, own))
    faults = state_faults(own, given)
    if faults:
        raise AVCoreError(f"'{file}' does not fit '{name}' (audio.weights): {'; '.join(faults)}.")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(given[key])
    return ()


def _published_file(name: str, published: str | None) -> Path:
    """Where torch's hub keeps the file, which is fetched if it is not there."""
    others = "pass a file with --set audio.weights=PATH, or ask for --set audio.weights=random"
    if published is None:
        raise AVCoreError(f"'{name}' has no published weights: {others}.")
    file = Path(torch.hub.get_dir()) / "checkpoints" / published
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(PUBLISHED + published, str(file), progress=False)
        except (OSError, HTTPException) as error:
            raise AVCoreError(
                f"The weights of '{name}' could not be fetched from {PUBLISHED}{published} ({type(error).__name__}). "
                f"Put that file at {file}, or {others}."
            ) from error
    return file
