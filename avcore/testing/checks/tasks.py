"""Checks of tasks: their metrics, pictures and words, on predictions of their default head."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from avcore.errors import AVCoreError
from avcore.report.prediction import answers_clips
from avcore.specs import STREAMS
from avcore.tasks import Batch, Input, Task
from avcore.testing.cases import TaskCase
from avcore.testing.cases.heads import padded
from avcore.testing.checks import check
from avcore.testing.processes import scores_of_processes

PROTOCOLS = ("clean", "paper")
SIDES = (20, 24)
"""Rows and columns of the pictures that are drawn on, px."""
AXES = ("clip", "segment", "pixel")
NONSENSE = ("", "  ", "\u2603 \u5f92 ?", "no/such/file.npy", "how many words are too many " * 40)
"""What a person may give by mistake."""
SPREAD = 17
"""Clips that are spread over processes: a prime number, so that what counts by batches ends on a smaller one."""
AT_ONCE = 3
"""Clips of a batch of such a process."""


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


def _scores(case: TaskCase, protocol: str, prediction: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
    scores: dict[str, float] = _taken_in(case, protocol, (prediction, batch)).compute()
    return scores


def _taken_in(case: TaskCase, protocol: str, *given: tuple[Mapping[str, Tensor], Batch]) -> Metric:
    """Metrics that were given predictions and batches."""
    made = case.world.model.task.metrics(protocol)
    assert isinstance(made, Metric), (
        f"Task '{case.spec.name}', protocol {protocol}: metrics returns a {type(made).__name__}; derive it from "
        "torchmetrics.Metric."
    )
    for prediction, batch in given:
        try:
            made.update(prediction, batch)
        except Exception as error:
            which = "valid clips" if batch.valid.any() else "no valid clip, as a process gets that has none to evaluate"
            raise AssertionError(
                f"Task '{case.spec.name}', protocol {protocol}: the update of its metrics fails on a batch of {which}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return made


def _compare(case: TaskCase, protocol: str, other: Mapping[str, float], one: Mapping[str, float], when: str) -> None:
    for name, value in one.items():
        found = other.get(name, math.nan)
        assert math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-6), (
            f"Task '{case.spec.name}', protocol {protocol}: '{name}' is {value:.6g}, and {found:.6g} {when}."
        )


@check("task", "padded clips")
def padded_clips(case: TaskCase) -> None:
    """A clip that only fills a batch up (``valid`` False) changes no metric, nor does a process that has only such."""
    world, batch = case.world, case.world.batch()
    more, idle = padded(batch), replace(batch, valid=torch.zeros_like(batch.valid))
    prediction = world.prediction(batch)
    for protocol in PROTOCOLS:
        one = _scores(case, protocol, prediction, batch)
        other = _scores(case, protocol, world.prediction(more), more)
        _compare(
            case,
            protocol,
            other,
            one,
            "when a clip that is not valid fills the batch up: leave out what batch.valid marks as False",
        )
        beside = _spread(case, protocol, [[(prediction, batch)], [(prediction, idle)]])[0]
        _compare(case, protocol, beside, one, "beside a process without a valid clip")


def _spread(
    case: TaskCase, protocol: str, processes: Sequence[Sequence[tuple[Mapping[str, Tensor], Batch]]]
) -> list[dict[str, float]]:
    metrics = [_taken_in(case, protocol, *given) for given in processes]
    try:
        return scores_of_processes(metrics)
    except AssertionError as error:
        raise AssertionError(f"Task '{case.spec.name}', protocol {protocol}: {error}") from error


@check("task", "processes")
def processes(case: TaskCase) -> None:
    """However clips are spread over processes, and in whatever order they come, the scores are those of one process."""
    world, batch = case.world, case.world.batch()
    draws = torch.Generator().manual_seed(0)
    which = torch.randint(len(batch), (SPREAD,), generator=draws)
    prediction, places = world.prediction(batch), torch.arange(SPREAD)

    def of(clips: Tensor) -> list[tuple[Mapping[str, Tensor], Batch]]:
        given: list[tuple[Mapping[str, Tensor], Batch]] = []
        for part in clips.split(AT_ONCE):
            # A prediction without the axis B fails the checks of heads.
            some = {name: x[which[part]] if len(x) == len(batch) else x for name, x in prediction.items()}
            given.append((some, replace(_chosen(batch, which[part]), samples=part)))
        return given

    lots = torch.randperm(SPREAD, generator=draws)
    spreads = {
        "when they come backwards": [places.flip(0)],
        "when every second clip is with another process": [places[0::2], places[1::2]],
        "when a process has the end of the split, and the next its beginning": [places[5:], places[:5]],
        "when three processes have clips by lot": [lots[:1], lots[1:9], lots[9:]],
    }
    for protocol in PROTOCOLS:
        one = _taken_in(case, protocol, *of(places)).compute()
        for when, shares in spreads.items():
            for found in _spread(case, protocol, [of(share) for share in shares]):
                _compare(
                    case,
                    protocol,
                    found,
                    one,
                    f"{when}: declare what is remembered by add_state with its reduction, and where the order of clips "
                    "matters remember batch.samples and sort by them",
                )


def _chosen(batch: Batch, which: Tensor) -> Batch:
    return replace(batch.map(lambda tensor: tensor[which]), names=[batch.names[index] for index in which.tolist()])


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
    """What was predicted for a clip is said in one line, or not at all; so is the truth of a whole clip."""
    world, batch = case.world, case.world.batch()
    task, where = world.model.task, f"Task '{case.spec.name}': describe"
    told = [{name: tensor[0] for name, tensor in world.prediction(batch).items()}]
    truth = task.truth({name: tensor[0] for name, tensor in batch.targets.items()})
    if truth is not None and answers_clips(task):
        told.append(truth)
    for prediction in told:
        try:
            text = task.describe(prediction)
        except Exception as error:
            raise AssertionError(
                f"{where} fails on {', '.join(prediction)}: {type(error).__name__}: {error}"
            ) from error
        assert isinstance(text, str), f"{where} returns a {type(text).__name__}, no text."
        assert "\n" not in text, f"{where} returns several lines."


@check("task", "details")
def details(case: TaskCase) -> None:
    """What is said as plain data has names, and is JSON without infinities."""
    world = case.world
    task, segments = world.model.task, world.model.segments
    whole = {name: tensor[0] for name, tensor in world.prediction(world.batch()).items()}
    times = [(float(at), float(at + 1)) for at in range(segments)]
    pieces = zip([[one] for one in times], _each(task, whole, segments), strict=True)
    # A video that is shorter than a clip ends within it.
    for within, prediction in [(times, whole), (times[:1], whole)] if answers_clips(task) else pieces:
        try:
            found = task.details(within, prediction)
        except Exception as error:
            raise AssertionError(
                f"Task '{case.spec.name}': details fails on {len(within)} of {segments} segments: "
                f"{type(error).__name__}: {error}"
            ) from error
        where = f"Task '{case.spec.name}': details gives {found!r}"
        assert isinstance(found, dict), f"{where}, no dict."
        assert all(isinstance(name, str) and name for name in found), f"{where}, which has no names."
        try:
            json.dumps(found, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{where}, no JSON: {error}. Give numbers, texts, lists and dicts of them.") from error


def _each(task: Task, whole: Mapping[str, Tensor], segments: int) -> list[dict[str, Tensor]]:
    """The prediction of a clip, segment by segment."""
    apart = {name for name in whole if task.prediction.get(name) in ("segment", "pixel")}
    return [
        {name: value[at : at + 1] if name in apart else value for name, value in whole.items()}
        for at in range(segments)
    ]


@check("task", "predictions")
def predictions(case: TaskCase) -> None:
    """``Task.prediction`` says of everything that its default head predicts whether it is of clip, segment or pixel."""
    world = case.world
    declared = world.model.task.prediction
    for name, axes in declared.items():
        assert axes in AXES, (
            f"Task '{case.spec.name}' declares the prediction '{name}' as {axes!r}; it may be {', '.join(AXES)}."
        )
    missing = [name for name in world.prediction(world.batch()) if name not in declared]
    assert not missing, (
        f"Task '{case.spec.name}': its head predicts '{missing[0]}', which Task.prediction does not declare (it names "
        f"{', '.join(declared) or 'nothing'}): 'avcore predict' would refuse it."
    )
    truth = world.model.task.truth({name: tensor[0] for name, tensor in world.batch().targets.items()})
    answer = next(iter(declared), "")
    assert truth is None or answer in truth, (
        f"Task '{case.spec.name}' declares '{answer}' first, which is then its answer, and the truth has "
        f"{', '.join(truth)}: name what it answers first in Task.prediction."
    )


@check("task", "pixel targets")
def pixel_targets(case: TaskCase) -> None:
    """Every target that ``Task.pixel_targets`` names is one of the data set's, with rows and columns at its end."""
    declared, targets = case.world.model.task.pixel_targets, case.world.batch().targets
    for name, outside in declared.items():
        where = f"Task '{case.spec.name}' says that the target '{name}' lies on the pictures"
        assert name in targets, (
            f"{where}, and the data set gives {', '.join(targets) or 'none'}: nothing would move it."
        )
        assert targets[name].ndim > 2, f"{where}: it is {tuple(targets[name].shape)}, not (B, ..., Y, X)."
        held = torch.as_tensor(outside, dtype=targets[name].dtype)
        assert held == outside, f"{where}: no {targets[name].dtype} holds its value of a pixel from outside, {outside}."


@check("task", "majority")
def majority(case: TaskCase) -> None:
    """The metrics take the answer of ``Task.majority``, of one clip, for all; it does not depend on their order."""
    world, batch = case.world, case.world.batch()
    task, where = world.model.task, f"Task '{case.spec.name}': the answer of majority"
    truths = [{name: tensor[clip] for name, tensor in batch.targets.items()} for clip in range(len(batch))]
    answer, other = (task.majority(iter(given), world.model.segments) for given in (truths, [*truths[1:], truths[0]]))
    if answer is None or other is None:
        return
    predicted = {name: tensor.shape[1:] for name, tensor in world.prediction(batch).items()}
    for name, tensor in answer.items():
        assert name in task.prediction, f"{where} has '{name}', which Task.prediction does not declare."
        found, asked = tuple(tensor.shape), tuple(predicted.get(name, tensor.shape))
        assert found == asked, f"{where} gives '{name}' as {found}, and a head predicts {asked} for a clip."
        same = other[name].shape == tensor.shape and torch.allclose(other[name].double(), tensor.double())
        assert same, f"{where} gives another '{name}' when the clips come in another order."
    whole = {name: tensor.expand(len(batch), *tensor.shape) for name, tensor in answer.items()}
    for protocol in PROTOCOLS:
        _scores(case, protocol, whole, batch)


@check("task", "events")
def events(case: TaskCase) -> None:
    """Events of a video lie within it, have names, and probabilities from 0 to 1 where they have any."""
    world, batch = case.world, case.world.batch()
    task, where = world.model.task, f"Task '{case.spec.name}': an event of a video of {world.model.segments} s"
    whole = {name: tensor[0] for name, tensor in world.prediction(batch).items()}
    each = _each(task, whole, world.model.segments)
    for event in task.events([(float(at), float(at + 1)) for at in range(len(each))], each) or ():
        lasts = 0 <= event.start_s < event.stop_s <= world.model.segments
        assert lasts, f"{where} is from {event.start_s} to {event.stop_s} s."
        assert event.label.strip(), f"{where} has no name."
        assert event.modality in ("", *STREAMS), f"{where} is in '{event.modality}', no modality."
        sure = event.probability
        assert sure is None or 0 <= sure <= 1, f"{where} has the probability {sure}."


@check("task", "inputs")
def inputs(case: TaskCase) -> None:
    """Every input has a shape, a type and a help text, and what a person gives is read in that shape or refused."""
    task = case.world.model.task
    for name, given in task.inputs.items():
        where = f"Task '{case.spec.name}', input '{name}'"
        assert given.help.strip(), f"{where} has no help: say what a person writes for it."
        assert isinstance(getattr(torch, given.dtype, None), torch.dtype), f"{where}: '{given.dtype}' is no type."
        sizes = isinstance(given.shape, tuple) and all(isinstance(size, int) and size > 0 for size in given.shape)
        assert sizes, f"{where}: its shape {given.shape!r} is no tuple of whole numbers above 0."
        for text in NONSENSE:
            _check_read(task, name, given, text, where)


def _check_read(task: Task, name: str, given: Input, text: str, where: str) -> None:
    try:
        read = task.read_input(name, text)
    except AVCoreError:
        return
    except Exception as error:
        raise AssertionError(
            f"{where}: reading {text[:40]!r} fails with {type(error).__name__}: {error}. Raise AVCoreError that says "
            f"what it must be."
        ) from error
    assert isinstance(read, Tensor), f"{where}: read_input({text[:40]!r}) returns a {type(read).__name__}, no tensor."
    found, asked = (tuple(read.shape), read.dtype), (given.shape, getattr(torch, given.dtype))
    assert found == asked, (
        f"{where}: {text[:40]!r} is read as {found[0]} {found[1]}, and {asked[0]} {asked[1]} is declared: pad, cut, or "
        f"raise AVCoreError."
    )
