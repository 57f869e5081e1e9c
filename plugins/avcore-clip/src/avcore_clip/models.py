"""open_clip's text transformers by name, without the towers for pictures beside them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from avcore import compat
from avcore.errors import AVCoreError, did_you_mean

__all__ = ["configuration", "make_model"]

_KNOWN = frozenset(
    {
        *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"),
        *("no_causal_mask", "eos_id", "pool_type", "proj_type", "proj_bias"),
    }
)
"""What open_clip's configurations and its `TextTransformer` call by the same name, and this family follows."""
_LAYERS = frozenset({"norm_kwargs", "act_kwargs"})
_IDLE = frozenset({"output_tokens"})
"""Without effect here."""
_REASONS = {
    "hf_model_name": "its text tower is one of Hugging Face's, not open_clip's own",
    "hf_tokenizer_name": "its tokenizer is not part of open_clip and would have to be fetched",
    "embed_cls": "it has a class token behind its sentences, as CoCa does",
}
_POOLS = ("argmax", "eos", "first", "last")


def configuration(name: str, preset: Mapping[str, Any]) -> Mapping[str, Any]:
    """open_clip's configuration of a model.

    Args:
        name: open_clip's, with or without the tag of weights after a dot.
        preset: of the model; its ``config`` stands for what open_clip knows.

    Raises:
        AVCoreError: open_clip has no such model, or its text tower is of a kind that this family does not know.
    """
    compat.install()
    import open_clip

    found: Any = preset.get("config")
    if found is None:
        model = name.partition(".")[0]
        if model not in open_clip.list_models():
            raise AVCoreError(f"open_clip has no model '{name}'.{did_you_mean(model, open_clip.list_models())}")
        found = open_clip.get_model_config(model)
    text = found["text_cfg"]
    for key, reason in _REASONS.items():
        if text.get(key):
            raise AVCoreError(f"The text tower of '{name}' cannot be used: {reason}.")
    strange = sorted(key for key in text if key not in _KNOWN | _LAYERS | _IDLE | _REASONS.keys() and text[key])
    if strange or text.get("pool_type", "argmax") not in _POOLS:
        raise AVCoreError(
            f"The text tower of '{name}' is of a kind that this family does not know: "
            f"{', '.join(f'{key}={text[key]}' for key in strange or ['pool_type'])}."
        )
    made: Mapping[str, Any] = found
    return made


def make_model(config: Mapping[str, Any]) -> nn.Module:
    """open_clip's text transformer of that configuration, as open_clip starts it."""
    from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer

    text = config["text_cfg"]
    activation: Any = QuickGELU if config.get("quick_gelu") else nn.GELU
    if text.get("act_kwargs"):
        activation = partial(activation, **text["act_kwargs"])
    norm = partial(LayerNorm, **(text.get("norm_kwargs") or {}))
    sizes = {key: text[key] for key in _KNOWN & text.keys()}
    model: nn.Module = TextTransformer(**sizes, output_dim=config["embed_dim"], act_layer=activation, norm_layer=norm)
    return model
