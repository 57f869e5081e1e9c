"""TensorBoard events of a run: scalars, pictures of predictions, parameter tables."""

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ["Board"]


class Board:
    """Writes events into a run directory, so that ``tensorboard --logdir runs`` lists runs by their names.

    Args:
        directory: of the run.
        purge_step: a run that goes on: earlier events from this step on are no longer shown.
    """

    def __init__(self, directory: Path, *, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._excepthook = threading.excepthook
        threading.excepthook = self._hush
        self._writer = SummaryWriter(log_dir=str(directory), purge_step=purge_step)

    def step(self, scalars: Mapping[str, float]) -> None:
        """The scalars of a `Step`, under ``train/``."""
        for name, value in scalars.items():
            if name != "step":
                self._add(f"train/{name}", value, int(scalars["step"]))

    def scores(self, split: str, scores: Mapping[str, float], step: int) -> None:
        """Scores of a split."""
        for name, value in scores.items():
            self._add(f"{split}/{name}", value, step)

    def picture(self, name: str, pixels_YX3: np.ndarray, step: int) -> None:
        """A picture, uint8."""
        self._writer.add_image(name, pixels_YX3, step, dataformats="HWC")

    def text(self, name: str, markdown: str) -> None:
        """A text or table in Markdown."""
        self._writer.add_text(name, markdown)

    def close(self) -> None:
        """Flush and close the file; raises what the thread that writes it met."""
        try:
            self._writer.flush()
        finally:
            threading.excepthook = self._excepthook
            self._writer.close()

    def _hush(self, found: threading.ExceptHookArgs) -> None:
        """No traceback of the thread that writes: the next event, or `close`, raises the same here."""
        if not type(found.thread).__module__.startswith("tensorboard."):
            self._excepthook(found)

    def _add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)
