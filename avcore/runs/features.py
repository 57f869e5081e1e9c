"""The features of a split as a file: of the frozen streams, and as the parts of a run adapt them.

Shape letters: C clips, T segments, D width.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from avcore.engine.device import choose_device
from avcore.engine.files import write_atomic
from avcore.engine.randomness import isolated_randomness
from avcore.errors import AVCoreError
from avcore.runs.base import Run
from avcore.runs.data import RunData, open_files

__all__ = ["write_features"]


def write_features(run: Run, split: str, file: Path) -> dict[str, tuple[int, ...]]:
    """Write what the streams of a run make of the clips of a split, in eval mode, as float32.

    The file (safetensors) holds, for each stream that runs (``visual``, ``audio``):

    - ``frozen.STREAM``: (C, T, D), pooled features of the frozen backbone alone;
    - ``adapted.STREAM``: (C, T, D), the same with the parts of the run, whose width may differ;
    - ``labels``: (C,) int64, which of the metadata's ``classes`` a clip is of;
    - ``targets.NAME``: (C, ...), the truth, what lies on pictures left out.

    Its metadata are text: ``split``, ``task``, ``method``, and as JSON lists ``clips``, names in the order of C, and
    ``classes``, the groups of clips that sound alike (`Clip.group`; a class where the data set has classes).

    Args:
        run: finished.
        split: also one with other sound, such as ``test_swapped``.
        file: to be written; its folder is made.

    Returns:
        The shapes, by key.

    Raises:
        AVCoreError: the file exists, there is no such split, or clips are missing.
    """
    if file.exists():
        raise AVCoreError(f"{file} exists already: name another file, or remove it.")
    model, device = run.model, choose_device(run.config.device)
    config = model.config
    # What is kept on disk holds no more than the head reads.
    model.config = replace(config, data=replace(config.data, cache_features=False))
    data = RunData(run.config, model, *open_files(run.config, run.registry))
    loader = data.loader(split)
    groups = [clip.group for clip in loader.clips]
    classes = sorted(set(groups))
    found: dict[str, list[Tensor]] = {}
    names: list[str] = []
    try:
        with torch.no_grad(), isolated_randomness():
            for batch in loader:
                on_device, valid = batch.to(device), batch.valid
                adapted, frozen = model.features(on_device), model.frozen_features(on_device)
                made = {f"frozen.{name}": one.pooled for name, one in frozen.streams.items()}
                made |= {f"adapted.{name}": one.pooled for name, one in adapted.streams.items()}
                made = {key: tensor.float() for key, tensor in made.items()}
                made |= {
                    f"targets.{name}": tensor
                    for name, tensor in batch.targets.items()
                    if name not in model.task.pixel_targets
                }
                places = batch.samples[valid].tolist()
                made["labels"] = torch.tensor([classes.index(groups[place]) for place in places])
                for key, tensor in made.items():
                    kept = tensor.cpu() if key == "labels" else tensor.cpu()[valid]
                    found.setdefault(key, []).append(kept)
                names += [name for name, counts in zip(batch.names, valid.tolist(), strict=True) if counts]
    finally:
        data.close()
        model.config = config
    whole = {key: torch.cat(pieces).contiguous() for key, pieces in found.items()}
    told: dict[str, Any] = {"split": split, "task": run.config.task, "method": run.results.label or "head alone"}
    told |= {"clips": json.dumps(names), "classes": json.dumps(classes)}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, save(whole, metadata=told))
    return {key: tuple(tensor.shape) for key, tensor in whole.items()}
