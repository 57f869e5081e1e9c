"""The files of a sentence encoder: where they are, what they say of the model, and its weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from avcore.backbones import ask_hub_once, read_tensors, state_faults
from avcore.errors import AVCoreError, why

__all__ = ["hub_folder", "load_folder", "pooling_of", "read_config"]

OWNER = "sentence-transformers"
"""Whose models are named without an owner."""
FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "1_Pooling/config.json")
"""What is fetched of a model."""
STATES = ("model.safetensors", "pytorch_model.bin")
_ASK = "Pass the folder of its files with --set text.weights=FOLDER, or ask for --set text.weights=random."
_OTHERS = re.compile(r"pooler\.|cls\.|embeddings\.position_ids$")
"""What checkpoints hold beside the encoder."""


def hub_folder(name: str) -> Path:
    """Fetch the files of a model from the hub, or find them where they were fetched before.

    Args:
        name: of the model, with or without its owner.

    Raises:
        AVCoreError: they cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    repository = name if "/" in name else f"{OWNER}/{name}"
    try:
        with ask_hub_once():
            return Path(snapshot_download(repository, allow_patterns=list(FILES)))
    except Exception as error:
        raise AVCoreError(
            f"The files of '{repository}' could not be fetched ({type(error).__name__}): no network, or no such model "
            f"there. {_ASK}"
        ) from error


def read_config(folder: Path) -> Mapping[str, Any]:
    """The settings of the model in a folder.

    Raises:
        AVCoreError: there are none, or the model is of another family than BERT.
    """
    if folder.is_file():
        raise AVCoreError(f"'{folder}' is a file (text.weights): name the folder that it lies in, with config.json.")
    if not folder.is_dir():
        raise AVCoreError(f"The folder '{folder}' does not exist (text.weights). {_ASK}")
    found: Mapping[str, Any] = _read(folder / "config.json", "Put it beside the weights (text.weights).")
    kind = found.get("model_type")
    if kind != "bert":
        raise AVCoreError(
            f"'{folder}' holds a model of the kind '{kind}', and this family knows 'bert' alone, such as MiniLM's."
        )
    # transformers 5 knows no other, and older ones would compute something else than is computed here.
    position = found.get("position_embedding_type", "absolute")
    if position != "absolute" or found.get("is_decoder"):
        raise AVCoreError(
            f"The model in '{folder}' cannot be used: position_embedding_type={position}, "
            f"is_decoder={bool(found.get('is_decoder'))}; this family has absolute positions and sees both ways."
        )
    return found


def pooling_of(folder: Path) -> str:
    """How a sentence becomes a vector: ``mean`` (also where the folder does not say) or ``class``.

    Raises:
        AVCoreError: in another way, or something that is not known follows.
    """
    modules = folder / "modules.json"
    if modules.is_file():
        kinds = [str(one.get("type", "")).rpartition(".")[2] for one in _read(modules)]
        if strange := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
            raise AVCoreError(f"The model in '{folder}' cannot be used: its {strange[0]} is not known here.")
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    settings = _read(file)
    chosen = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "class"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise AVCoreError(
            f"'{file}' asks for {' and '.join(chosen) or 'no pooling'}; known is one of {', '.join(known)}."
        )
    return known[chosen[0]]


def load_folder(model: nn.Module, folder: Path) -> None:
    """Load the weights in a folder strictly.

    Raises:
        AVCoreError: there are none, or keys are missing, unexpected or misshapen; they are named.
    """
    file = next((folder / name for name in STATES if (folder / name).is_file()), None)
    if file is None:
        raise AVCoreError(f"'{folder}' holds no weights: put {' or '.join(STATES)} into it (text.weights).")
    own = model.state_dict()
    found = {_renamed(key): tensor for key, tensor in read_tensors(file, own).items()}
    found = {key: tensor for key, tensor in found.items() if not _OTHERS.match(key)}
    if faults := state_faults(own, found):
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise AVCoreError(f"'{file}' does not fit the model that config.json beside it describes: {shown}.")
    model.load_state_dict({key: _single(tensor) for key, tensor in found.items()}, strict=True)


def _renamed(key: str) -> str:
    """A name as the encoder has it: alone, and with norms as torch names them."""
    bare = key.removeprefix("bert.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{'weight' if m[1] == 'gamma' else 'bias'}", bare)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor


def _read(file: Path, advice: str = "Fetch it again.") -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AVCoreError(f"Cannot read '{file}': {why(error)}. {advice}") from None
    except ValueError as error:
        raise AVCoreError(f"'{file}' is no JSON: {error}. Fetch it again.") from None
