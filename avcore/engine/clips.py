"""The scores of each clip alone that a run keeps of the splits it measured at its end. Imports no torch.

``clips/SPLIT.json`` is ``{"clips": [name, ...], "scores": {metric: [value or null, ...]}}``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avcore.engine.files import read_json, write_json
from avcore.errors import AVCoreError

__all__ = ["read_clips", "write_clips"]


def write_clips(directory: Path, split: str, alone: Mapping[str, Mapping[str, float]]) -> None:
    """Write those of a split (clip -> metric -> score) into a run's directory."""
    names = sorted(alone)
    metrics = dict.fromkeys(metric for scores in alone.values() for metric in scores)
    scores = {metric: [_short(alone[name].get(metric)) for name in names] for metric in metrics}
    (directory / "clips").mkdir(parents=True, exist_ok=True)
    write_json(directory / "clips" / f"{split}.json", {"clips": names, "scores": scores})


def read_clips(directory: Path, split: str, metric: str) -> dict[str, float]:
    """One score of each clip by its name, clips without it left out; empty where the run kept none.

    Raises:
        AVCoreError: the file is damaged.
    """
    file = directory / "clips" / f"{split}.json"
    if not file.is_file():
        return {}
    content = read_json(file)
    try:
        values = content["scores"].get(metric, ())
        pairs = zip(content["clips"], values, strict=True) if values else ()
        return {str(name): float(value) for name, value in pairs if value is not None}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise AVCoreError(f"{file} is damaged: {error}. Remove it, or evaluate the run anew.") from error


def _short(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)
