"""Checkpoints of reference implementations become adapters, published weights of backbones become files of ours.

A converter renames the tensors; here is what surrounds it: reading, the list of what does not fit, and the question of
where the frozen weights come from.
"""

import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from avcore.assemble import assemble
from avcore.backbones import read_tensors, state_faults
from avcore.config import Resolved, resolve_config
from avcore.engine.checkpoint import serialise
from avcore.engine.files import sha256, write_atomic
from avcore.errors import ConfigError
from avcore.model import AVModel
from avcore.registry import Registry, load_registry
from avcore.runs.adapter import check_folder, write_adapter
from avcore.runs.pieces import ConversionError, Pieces
from avcore.shapes import WithoutValues
from avcore.specs import STREAMS, BackboneSpec, resolve
from avcore.states import load_trainable_state

__all__ = ["Conversion", "ConversionError", "convert_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What came of a checkpoint.

    Attributes:
        directory: the adapter, or where the backbone's weights are.
        source: the method or the backbone whose reference code wrote it.
        task: what it was trained for; None of a backbone.
        tensors, parameters: how many tensors were trained, or are the backbone's, and how many numbers are in them.
        frozen: for each backbone, named by its stream, where its frozen weights came from.
        weights: the files that were written with frozen weights of the checkpoint, by the same names.
    """

    directory: Path
    source: str
    task: str | None
    tensors: int
    parameters: int
    frozen: Mapping[str, str]
    weights: Mapping[str, Path]


def convert_checkpoint(
    source: str,
    file: str | Path,
    *,
    task: str | None = None,
    out: str | Path,
    recipe: str | None = None,
    visual: str | None = None,
    set: Sequence[str] = (),
) -> Conversion:
    """Make an adapter of a checkpoint that the reference implementation of a method wrote, or a file of a backbone's.

    Of a method: the frozen weights are those of ``visual.weights`` if ``set`` names them; then what the file holds of
    them must be equal. Otherwise the file must hold all of them; they are written to ``backbone.safetensors`` beside
    the adapter, to be named as ``visual.weights`` whenever it is used.

    Of a backbone: its weights are written to ``backbone.safetensors`` (``audio_backbone.safetensors`` if it serves
    sound only), under the names that ``visual.weights`` and ``audio.weights`` take.

    Args:
        source: a method or a backbone, whose converter knows the official names.
        file: ``.pt``, ``.pth`` or ``.ckpt`` that holds nothing but tensors and plain values, or ``.safetensors``.
        task: what a method's checkpoint was trained for.
        out: directory of the adapter, new or holding an adapter, which is replaced.
        recipe: variant of the method's recipe.
        visual: backbone, if not the recipe's.
        set: further settings of a method's model, ``"key=value"``.

    Raises:
        ConversionError: keys are unknown, missing or misshapen, or frozen weights are missing or others; lists all.
        AVCoreError: there is no such converter, file, task, ...; says what to do. Nothing is written.

    Example:
        >>> avcore.convert_checkpoint("NAME", "best.pth", task="TASK", out="adapter")  # doctest: +SKIP
    """
    folder, path = Path(out), Path(file)
    check_folder(folder)
    registry = load_registry()
    backbones = {name: one for one in registry.backbones if one.converter for name in one.presets}
    if source in backbones:
        return _convert_backbone(source, backbones[source], path, folder)
    methods = sorted(one.name for one in registry.methods if one.converter)
    spec = registry.methods[source]
    if not spec.converter:
        raise ConfigError(
            f"Method '{spec.name}' has no converter. Methods that have one: {', '.join(methods) or 'none'}; backbones: "
            f"{', '.join(sorted(backbones)) or 'none'}."
        )
    if task is None:
        raise ConfigError(f"No task: a checkpoint of '{spec.name}' was trained for one; name it with --task NAME.")
    tensors = read_tensors(path)
    options: dict[str, Any] = {"method": source, "task": task, "recipe": recipe, "visual": visual, "need_data": False}
    resolved = resolve_config(registry, **options, sets=tuple(set))
    pieces = Pieces(spec, path, tensors, assemble(resolved.config, registry, meta=True))
    pieces.refuse_misfits()

    with tempfile.TemporaryDirectory() as scratch:
        model, frozen, files = _on_frozen_weights(pieces, resolved, registry, Path(scratch))
        load_trainable_state(model, pieces.trained)
        remarks = {"from": path.name, "sha256": sha256(path), "frozen": frozen}
        write_adapter(model, folder, converted=remarks)
        weights = {stream: folder / _file_name(stream) for stream in files}
        for stream, written in weights.items():
            write_atomic(written, files[stream].read_bytes())
        _forget_weights(model, folder, keep=weights)
    return Conversion(
        directory=folder,
        source=spec.name,
        task=resolved.config.task,
        tensors=len(pieces.trained),
        parameters=sum(tensor.numel() for tensor in pieces.trained.values()),
        frozen=frozen,
        weights=weights,
    )


def _convert_backbone(name: str, spec: BackboneSpec, path: Path, folder: Path) -> Conversion:
    """Write published weights under the names of the backbone's own tower."""
    stream = spec.streams[0]
    with WithoutValues():
        backbone = spec.load()(spec.config(), name=name, preset=spec.presets[name])
        own = backbone.tower(stream, spec.config(), 1).weights()
    found = resolve(spec.converter)(read_tensors(path, own))
    if faults := state_faults(own, found):
        raise ConversionError(
            f"'{path}' does not fit backbone '{name}': {len(faults)} keys. Nothing was written.", faults
        )
    written = folder / _file_name(stream)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(written, serialise({key: _full(found[key]) for key in own}))
    return Conversion(
        directory=folder,
        source=name,
        task=None,
        tensors=len(own),
        parameters=sum(found[key].numel() for key in own),
        frozen={},
        weights={stream: written},
    )


def _file_name(stream: str) -> str:
    return "backbone.safetensors" if stream == "visual" else f"{stream}_backbone.safetensors"


def _forget_weights(model: AVModel, folder: Path, *, keep: Collection[str]) -> None:
    """Take away what the adapter that was there before wrote, unless this one runs on it."""
    named = {str(getattr(getattr(model.config, stream).settings, "weights", "")) for stream in STREAMS}
    for stream in STREAMS:
        path = folder / _file_name(stream)
        if stream not in keep and os.path.abspath(path) not in named:
            path.unlink(missing_ok=True)


def _on_frozen_weights(
    pieces: Pieces, resolved: Resolved, registry: Registry, scratch: Path
) -> tuple[AVModel, dict[str, str], dict[str, Path]]:
    """The model on its frozen weights, where those come from, and the files made of them."""
    config = resolved.config
    origin: dict[str, str] = {}
    files: dict[str, Path] = {}
    for stream in pieces.trunks:
        settings = getattr(config, stream).settings
        if resolved.origins.get(f"{stream}.weights", "").startswith("--set"):
            origin[stream] = f"{stream}.weights={settings.weights}"
            continue
        lacking = pieces.lacking(stream)
        if not pieces.frozen[stream] or not hasattr(settings, "weights"):
            raise ConversionError(
                f"'{pieces.source}' does not hold the frozen {stream} backbone, {len(pieces.trunks[stream])} tensors: "
                f"name its weights with --set {stream}.weights=PATH (or hub). Nothing was written.",
                (),
            )
        pieces.refuse(
            {f"missing of the frozen {stream} backbone": [f"{stream}.{name}" for name in lacking]},
            f"Name the backbone's weights with --set {stream}.weights=PATH (or hub).",
        )
        files[stream] = scratch / _file_name(stream)
        given = {name: _full(tensor) for name, tensor in pieces.whole(stream).items()}
        files[stream].write_bytes(serialise(given))
        origin[stream] = f"the file {pieces.source.name}"
        config = replace(
            config,
            **{stream: replace(getattr(config, stream), settings=replace(settings, weights=str(files[stream])))},
        )
    model = assemble(config, registry)
    different = pieces.differences(model)
    names = " and ".join(f"--set {stream}.weights" for stream in origin if stream not in files)
    pieces.refuse(
        {"different frozen weights": different},
        f"Leave out {names} to use those of the file." if names else "Other settings of the backbones may make them.",
    )
    return model, origin, files


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
