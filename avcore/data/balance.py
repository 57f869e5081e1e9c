"""How often each clip is drawn so that rare classes are seen as often as frequent ones."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from avcore.data.broken import reading_of
from avcore.data.randomness import drawn
from avcore.errors import DataError, did_you_mean
from avcore.tasks import Clip, Dataset

__all__ = ["balanced_chances"]


def balanced_chances(dataset: Dataset, clips: Sequence[Clip], name: str, *, skip: bool = False) -> np.ndarray:
    """The chance (N,) of each of N clips: one over the number of clips that show its rarest class.

    Where each clip has one class, all classes are drawn equally often. Whole numbers in a target are classes; in one of
    fractions or truth values, of any shape (..., K), each place in the last axis is a class, present where not zero.

    Args:
        dataset: loads the targets, of clips as epoch 0 draws them.
        clips: of one split.
        name: of the target that holds the classes.
        skip: a clip whose target cannot be read is never drawn.

    Raises:
        DataError: there is no such target, or one cannot be read.
    """
    shown: list[set[int]] = []
    for index, clip in enumerate(clips):
        try:
            with reading_of(clip):
                target = dataset.target(drawn(dataset, clip, index))
        except DataError:
            if not skip:
                raise
            shown.append(set())
            continue
        if name not in target:
            raise DataError(
                f"train.balance is '{name}', which is no target of this data set, only {', '.join(target)}."
                f"{did_you_mean(name, target)}"
            )
        shown.append(_classes(target[name]))
    counts = Counter(one for classes in shown for one in classes)
    weights = np.array([max((1 / counts[one] for one in classes), default=0.0) for classes in shown])
    if not weights.any():
        raise DataError(f"train.balance is '{name}', but no clip shows a class in it.")
    chances: np.ndarray = weights / weights.sum()
    return chances


def _classes(target: Tensor) -> set[int]:
    if target.is_floating_point() or target.dtype is torch.bool:
        return set(torch.nonzero(target.reshape(-1, target.shape[-1]).any(0)).flatten().tolist())
    return set(target.flatten().tolist())
