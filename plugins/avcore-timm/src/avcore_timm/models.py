"""What the families share: a timm model by its name with its weights, and what it takes in."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avcore import compat
from avcore.backbones import ask_hub_once
from avcore.errors import AVCoreError, did_you_mean
from avcore.specs import FilterBankGeometry, ImageGeometry
from avcore_timm.settings import PictureSettings
from avcore_timm.weights import load_file

__all__ = ["filter_bank_geometry", "image_geometry", "make_model", "random_notices"]


def make_model(
    settings: PictureSettings,
    *,
    name: str,
    preset: Mapping[str, Any],
    patterns: Sequence[str],
    projection: bool = False,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Make a timm model without classifier, weights loaded as ``settings.weights`` says; none on the meta device.

    Args:
        settings: of the stream that asks for it.
        name: what the user wrote.
        preset: ``model`` (the timm name, if it is not ``name``), ``arguments`` of ``timm.create_model``, ``weights``
            (a file that stands for ``hub``), ``shared`` (width of the projection); all optional.
        patterns: of the family's timm names, from which a near miss is suggested.
        projection: keep the weights' head, where it maps into the space that a CLIP shares with text.

    Returns:
        The model, and what the user must be told.

    Raises:
        AVCoreError: timm has no such model, the weights cannot be had, or their head is no projection.
    """
    compat.install()
    import timm

    model_name = preset.get("model", name)
    arguments = dict(preset.get("arguments", {}))
    if settings.size is not None:
        arguments["img_size"] = settings.size
    if not timm.is_model(model_name.split(".")[0]):
        near = did_you_mean(model_name, timm.list_models(list(patterns)))
        raise AVCoreError(f"timm has no model '{model_name}'.{near}")
    shared = _shared(name, model_name, preset) if projection else 0
    on_meta = torch.empty(0).device.type == "meta"
    weights = settings.weights
    if weights == "hub" and "weights" in preset:
        weights = str(preset["weights"])
    from_hub = weights == "hub" and not on_meta
    try:
        with ask_hub_once() if from_hub else nullcontext():
            model: nn.Module = timm.create_model(model_name, pretrained=from_hub, num_classes=shared, **arguments)
    except Exception as error:
        if not from_hub:
            raise AVCoreError(f"timm cannot make '{model_name}': {error}") from error
        raise AVCoreError(
            f"The weights of '{model_name}' could not be fetched from timm's hub ({type(error).__name__}): no network, "
            "or no such file there. Pass a file with --set visual.weights=PATH (or audio.weights), or ask for --set "
            "visual.weights=random."
        ) from error
    _refuse_rest(name, model, settings.size)
    notices = random_notices(name, weights == "random" and not on_meta)
    if not on_meta and weights not in ("hub", "random"):
        notices = load_file(model, Path(weights), setting=f"weights of '{name}'")
    return model, notices


def _refuse_rest(name: str, model: Any, size: int | None) -> None:
    """Refuse a size of which pixels would be left over."""
    patch = model.patch_embed.patch_size[0]
    if size is not None and size % patch:
        near = [one * patch for one in (size // patch, size // patch + 1) if one]
        raise AVCoreError(
            f"size={size} is no multiple of the {patch} px of a patch of '{name}': write {' or '.join(map(str, near))}."
        )


def _shared(name: str, model_name: str, preset: Mapping[str, Any]) -> int:
    """The width of the space that the weights of a CLIP share with text; timm keeps the map as their classifier."""
    import timm

    if "shared" in preset:
        return int(preset["shared"])
    config = timm.get_pretrained_cfg(model_name)
    # Weights that were tuned to classes have a head of that many outputs.
    tuned = "_ft_" in (getattr(config, "tag", None) or "")
    if "_clip_" not in model_name or config is None or tuned or not config.num_classes:
        raise AVCoreError(
            f"'{name}' has no map into a space shared with text (projection=true): name a ViT of CLIP with "
            f"the tag of its weights, such as vit_base_patch16_clip_quickgelu_224.openai, or leave projection out."
        )
    return int(config.num_classes)


def random_notices(name: str, random: bool) -> tuple[str, ...]:
    """What a run on random weights must say."""
    return (f"'{name}' runs on random weights.",) if random else ()


def image_geometry(model: Any, settings: PictureSettings, preset: Mapping[str, Any]) -> ImageGeometry:
    """The pictures of a timm model: its size, the mean and deviation of its weights unless settings say otherwise."""
    config = getattr(model, "pretrained_cfg", None) or {}
    fields = {key: config[key] for key in ("mean", "std") if key in config} | dict(preset.get("image", {}))
    if settings.image_mean is not None:
        fields["mean"] = settings.image_mean
    if settings.image_std is not None:
        fields["std"] = settings.image_std
    fields = {key: tuple(value) for key, value in fields.items()}
    return ImageGeometry(size=model.patch_embed.img_size[0], **fields)


def filter_bank_geometry(settings: PictureSettings, preset: Mapping[str, Any], **defaults: Any) -> FilterBankGeometry:
    """The log-mel pictures of a picture backbone: the settings, before the preset, before the family's defaults."""
    asked = {
        "mel_bins": settings.mel_bins,
        "shift_ms": settings.shift_ms,
        "frames": settings.frames,
        "mean": settings.fbank_mean,
        "std": settings.fbank_std,
        "pad_first": settings.pad_first,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    return FilterBankGeometry(**(defaults | dict(preset.get("audio", {})) | given))
