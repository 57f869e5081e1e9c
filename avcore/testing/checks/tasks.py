"""Checks of tasks: their metrics, pictures and words, on predictions of their default head."""

import math

import numpy as np

from avcore.tasks import Batch
from avcore.testing.cases import TaskCase
from avcore.testing.cases.heads import padded
from avcore.testing.checks import check

PROTOCOLS = ("clean", "paper")
SIDES = (20, 24)
"""Rows and columns of the pictures that are drawn on, px."""


@check("task", "default head")
def default_head(case: TaskCase) -> None:
    """The default head takes the task, which keeps the settings that it is made with."""
    model = case.world.model
    assert model.task.config == model.config.task_options, (
        f"Task '{case.spec.name}' does not keep the settings that it is made with: call super().__init__(config)."
    )


@check("task", "metrics")
def metrics(case: TaskCase) -> None:
    """Under both protocols metrics give finite numbers, the task's ``score`` among them."""
    world, batch = case.world, case.world.batch()
    prediction = world.prediction(batch)
    for protocol in PROTOCOLS:
        found = _scores(case, protocol, prediction, batch)
        score = world.model.task.score
        assert score in found, (
            f"Task '{case.spec.name}', protocol {protocol}: its score '{score}' is not among the metrics "
            f"({', '.join(found)}); checkpoints are selected by it."
        )
        for name, value in found.items():
            number = isinstance(value, float) and math.isfinite(value)
            assert number, f"Task '{case.spec.name}', protocol {protocol}: '{name}' is {value!r}, no finite float."


def _scores(case: TaskCase, protocol: str, prediction: object, batch: Batch) -> dict[str, float]:
    made = case.world.model.task.metrics(protocol)
    made.update(prediction, batch)  # type: ignore[arg-type]
    return made.compute()


@check("task", "padded clips")
def padded_clips(case: TaskCase) -> None:
    """A clip that only fills a batch up (``valid`` False) changes no metric."""
    world, batch = case.world, case.world.batch()
    more = padded(batch)
    for protocol in PROTOCOLS:
        one = _scores(case, protocol, world.prediction(batch), batch)
        other = _scores(case, protocol, world.prediction(more), more)
        for name, value in one.items():
            assert math.isclose(other[name], value, rel_tol=1e-6, abs_tol=1e-6), (
                f"Task '{case.spec.name}', protocol {protocol}: '{name}' is {value:.6g}, and {other[name]:.6g} when a "
                f"clip "
                f"that is not valid fills the batch up: leave out what batch.valid marks as False."
            )


@check("task", "drawing")
def drawing(case: TaskCase) -> None:
    """Predictions and the truth are painted over frames of any size, which keep shape and type."""
    world, batch = case.world, case.world.batch()
    task, segments = world.model.task, world.model.segments
    prediction = {name: tensor[0] for name, tensor in world.prediction(batch).items()}
    truth = task.truth({name: tensor[0] for name, tensor in batch.targets.items()})
    frames = np.random.default_rng(0).integers(0, 255, (segments, *SIDES, 3), dtype=np.uint8)
    for what, shown in (("a prediction", prediction), ("the truth", truth)):
        if shown is None:
            continue
        before = frames.copy()
        try:
            drawn = task.draw(frames, shown)
        except Exception as error:
            raise AssertionError(
                f"Task '{case.spec.name}' cannot draw {what} over frames {frames.shape}: {type(error).__name__}: "
                f"{error}"
            ) from error
        assert isinstance(drawn, np.ndarray), f"Task '{case.spec.name}': draw returns a {type(drawn).__name__}."
        found, asked = (drawn.shape, str(drawn.dtype)), (frames.shape, "uint8")
        assert found == asked, f"Task '{case.spec.name}': draw makes {found} of {what} over frames {asked}."
        assert np.array_equal(before, frames), f"Task '{case.spec.name}': draw changes the frames that it is given."


@check("task", "description")
def description(case: TaskCase) -> None:
    """What was predicted for a clip is said in one line, or not at all."""
    world, batch = case.world, case.world.batch()
    text = world.model.task.describe({name: tensor[0] for name, tensor in world.prediction(batch).items()})
    assert isinstance(text, str), f"Task '{case.spec.name}': describe returns a {type(text).__name__}, no text."
    assert "\n" not in text, f"Task '{case.spec.name}': describe returns several lines."
