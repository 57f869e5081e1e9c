"""One run, from the configuration to the results: assemble, read, train, evaluate, write down."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avcore.backbones import digest
from avcore.config import Resolved, RunConfig
from avcore.data.loader import ClipLoader
from avcore.data.workers import workers_watched
from avcore.discovery import Lifecycle
from avcore.engine.board import Board
from avcore.engine.checkpoint import Checkpoint, CheckpointStore, Reached
from avcore.engine.compiling import compile_steps
from avcore.engine.device import choose_device
from avcore.engine.display import Display
from avcore.engine.listeners import Charted, Hooked, Listeners, Recorded, Saved, Shown
from avcore.engine.loop import Trainer
from avcore.engine.randomness import determinism, isolated_randomness
from avcore.engine.records import RunRecord, commit_of, refuse_no_unicode, refuse_used, reset_peak, versions
from avcore.engine.result import RunResult, Status
from avcore.engine.signals import Preempted, Signals
from avcore.errors import DISK_FAULTS, AVCoreError, PluginError, typed, why
from avcore.model import AVModel
from avcore.ranks import in_turn, ranks, wait
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.report.published import published_scores
from avcore.report.tables import render_markdown
from avcore.runs.base import Run, build_model
from avcore.runs.data import RunData, list_splits, open_files, too_long
from avcore.runs.evaluations import GLANCES, Evaluations, splits_of
from avcore.runs.inherit import start_at
from avcore.runs.offers import offers_of
from avcore.runs.pictures import draw_example
from avcore.runs.resume import (
    describe_versions,
    has_run,
    is_finished,
    refuse_changes,
    refuse_other_release,
    results_in,
)
from avcore.runs.summary import DEMO, describe_config, describe_results
from avcore.runs.trivial import majority_scores
from avcore.states import load_trainable_state, parameter_groups

__all__ = ["execute", "head_alone"]


def head_alone(resolved: Resolved, **changed: Any) -> Resolved:
    """The same run without its parts: what the head reaches by itself. Further settings may be ``changed``."""
    left = {kind: names for kind, names in resolved.config.full_names.items() if kind not in ("prompts", "fusions")}
    config = replace(
        resolved.config,
        prompts=(),
        fusions=(),
        parts={},
        part_streams={},
        part_scales={},
        baseline=False,
        trivial=False,
        full_names=left,
        **changed,
    )
    return Resolved(config=config, origins={})


def execute(
    resolved: Resolved,
    registry: Registry,
    directory: Path,
    *,
    quiet: bool = False,
    outer: bool = True,
    resume: bool = False,
    notes: Sequence[str] = (),
) -> Run:
    """Train and measure as the configuration says, and leave everything in ``directory``.

    Args:
        resolved: the configuration.
        registry: where its names are looked up.
        directory: new or empty, unless ``resume``.
        quiet: show nothing; the log has it all.
        outer: False for a run within another, which shows no banner and no tables.
        resume: go on with the run in ``directory``, if one was begun there.
        notes: lines to show first.

    Raises:
        AVCoreError: something that the user can mend; nothing is left in ``directory`` when it shows before training.
        KeyboardInterrupt, Preempted: a signal came; what was reached is saved.
    """
    config = resolved.config
    refuse_no_unicode(directory)
    written = resolved.yaml()  # now, since it refuses what no file can hold
    registry = registry.recorded(config.full_names)
    here = ranks()
    display = Display(quiet=quiet or not here.first)
    if resume and has_run(directory):
        refuse_other_release(directory, registry)
        changed = refuse_changes(resolved, directory, registry)
        if is_finished(directory, changed):
            display.line(f"{directory} is finished; there is nothing to go on with.")
            return Run(directory, config, registry, results=RunResult.read(directory / "results.json"))
        notes = (*notes, *describe_versions(directory))
    elif here.first:
        refuse_used(directory, resume=resume)
    # What the first process writes from here on the others did not find.
    wait()
    device = choose_device(config.device)
    demo = config.data.dataset is not None and registry.datasets[config.data.dataset].demo
    banner = (DEMO,) if demo and outer else ()
    for line in (*banner, *notes, describe_config(config)):
        display.line(line)
    with Signals() as signals, isolated_randomness(), determinism(config.deterministic), workers_watched():
        reset_peak(device)
        started = time.monotonic()
        run = _open(config, registry, directory, display)
        splits = splits_of(run, display)
        if said := _last_batch(run.data.loader("train", train=True)):
            display.line(f"train: {said}")
        if said := _no_average(config):
            display.line(f"train: {said}")
        checkpoint = _checkpoint_of(run, display) if resume else None
        if config.train.start is not None and checkpoint is None:
            for line in start_at(run.model, config.train.start, must=outer):
                display.line(line)
        record = RunRecord(directory, resume=resume) if here.first else None
        if record:
            record.write_config(written)
            display.attach(record.log)
        files = ExitStack()
        listeners = Listeners()
        if record:
            files.enter_context(closing(record))
            # What was logged after the checkpoint is logged again; its own scores carry its number of steps.
            kept = checkpoint.progress.step + 1 if checkpoint else 0
            board = files.enter_context(closing(Board(directory, purge_step=kept if resume else None)))
            listeners = _listeners(run, record, board, display, checkpoint, registry, started)
        evaluations = Evaluations(run, display, listeners)
        with _ending(run, files, listeners, signals, banner=banner, outer=outer):
            listeners.tell("run_started")
            run.data.prepare(("train", run.results.selected_on, *splits), display)
            wait()
            run.results = replace(
                run.results,
                without_truth=run.data.without_truth,
                clips=run.data.listed,
                notes=tuple(run.data.dataset.notes()),
            )
            trainer = Trainer(
                model=run.model,
                loader=run.data.loader("train", train=True),
                config=config,
                device=device,
                select=evaluations.select,
                score=run.results.score_name,
                listeners=listeners,
                signals=signals,
                nonfinite=lambda error: record.write_nonfinite(error.report, resolved.tree()) if record else directory,
                start=checkpoint,
            )
            if config.trivial:  # before training, where a mistake costs nothing
                trivial = {"majority": majority_scores(run, (run.results.selected_on, *splits))}
                run.results = replace(run.results, trivial=trivial)
            best = _train(trainer, run, display)
            pictures = evaluations.measure(splits, best, directory / "pictures")
            beside = partial(execute, registry=registry, quiet=quiet, outer=False, resume=resume)
            beside_it = config.baseline and bool(config.prompts or config.fusions)
            learns = bool(parameter_groups(run.model)["head"])
            if (beside_it or config.trivial) and not learns:
                display.line("\nThe head alone has nothing to train: no run of it stands beside this one.")
            if beside_it and learns:
                display.line("\nThe head alone, with the same recipe:")
                inner = beside(head_alone(resolved), directory=directory / "baseline")
                run.results = replace(run.results, baseline=inner.results.metrics)
            if config.trivial and learns:
                display.line("\nThe head alone, on a backbone of random weights:")
                inner = beside(head_alone(resolved, frozen="random"), directory=directory / "random")
                trivial = {**run.results.trivial, "random_backbone": inner.results.metrics}
                run.results = replace(run.results, trivial=trivial)
            run.results = replace(run.results, broken=run.data.broken)
            if outer:
                tables = describe_results(
                    run.results, published_scores(run.results, registry), pictures, seconds=time.monotonic() - started
                )
                display.line(f"\n{tables}\nrun: {directory}")
    return run


def _listeners(
    run: Run,
    record: RunRecord,
    board: Board,
    display: Display,
    checkpoint: Checkpoint | None,
    registry: Registry,
    started: float,
) -> Listeners:
    """In their order; ``started`` is `time.monotonic` at the beginning."""
    train, model = run.config.train, run.model
    draw = partial(draw_example, model.task)
    others = (
        Shown(display, epochs=train.epochs, every=train.log_every),
        Recorded(record, run, choose_device(run.config.device), started=started),
        Charted(board, _table_of(run), every=train.log_every, draw=draw, glances=GLANCES),
        Hooked(Lifecycle(registry.plugins), run),
    )
    saved = Saved(
        CheckpointStore(record.checkpoints),
        Listeners(*others),
        every=train.save_every,
        facts={"frozen_digest": model.backbone_digest, "versions": run.results.versions},
        since=checkpoint.progress if checkpoint else Reached(epoch=0, step=0),
    )
    return Listeners(*others, saved)


def _open(config: RunConfig, registry: Registry, directory: Path, display: Display) -> Run:
    """The run with its data and its untrained model."""
    with in_turn():
        # Before the weights, which may have to be fetched: a wrong folder shows at once.
        dataset, root = open_files(config, registry, display.quarters(f"making {config.data.dataset}"))
        for note in dataset.notes():
            display.line(note)
        for note in too_long(list_splits(config, dataset)["train"], dataset.segments):
            display.line(note)
        model = build_model(config, registry)
    said = compile_steps(model, choose_device(config.device))
    for notice in (*model.notices, *filter(None, (said,))):
        display.line(notice)
    earlier = results_in(directory)
    results = results_of(model, registry, earlier.seconds if earlier else 0.0)
    run = Run(directory, config, registry, results=results)
    run.adopt(model, RunData(config, model, dataset, root))
    return run


def _last_batch(loader: ClipLoader) -> str:
    """What becomes of the clips of an epoch that fill no batch; empty if all batches are full."""
    total, size = len(loader.clips), loader.batch_size
    if loader.left_out:
        return (
            f"{loader.left_out} of {total} clips are left out of each epoch, others each time: they fill no batch of "
            f"{size} (train.drop_last=false trains on them)"
        )
    if total < size:
        return f"its {total} clips make one batch, smaller than {size}, which is trained on"
    if total % size:
        return f"the last batch of each epoch has {total % size} clips of {size}, others each time"
    return ""


def _no_average(config: RunConfig) -> str:
    """Whether the run ends before the window of epochs whose weights are averaged; empty if it does not."""
    epochs, window = config.train.epochs, config.train.average_epochs
    if window is None or window[0] <= epochs:
        return ""
    return f"no weights are averaged: train.average_epochs={list(window)} begins after the last epoch, {epochs}"


def _disk_fault(error: OSError, directory: Path) -> AVCoreError:
    # TensorBoard tells no name.
    path = directory if error.filename is None else Path(error.filename)
    what = "write" if path.is_relative_to(directory) else "use"
    return AVCoreError(f"Cannot {what} {path}: {why(error)}.")


def _checkpoint_of(run: Run, display: Display) -> Checkpoint | None:
    """The checkpoint to go on from.

    Raises:
        AVCoreError: all are damaged, or it belongs to other frozen weights.
    """
    found, damaged = CheckpointStore(run.directory / "checkpoints").resume()
    for reason in damaged:
        display.line(reason)
    if found is None:
        display.line("no checkpoint to go on from: it begins with step 0")
        return None
    expected = run.model.backbone_digest
    if found.frozen_digest != expected:
        raise AVCoreError(
            f"{run.directory} was trained on other frozen weights ({found.frozen_digest[:12]}) than those of "
            f"'{run.config.visual.backbone}' here ({expected[:12]}): it cannot go on with these."
        )
    done = found.progress
    display.line(f"going on after step {done.step} (epoch {done.epoch + (done.position > 0)}), {found.path}")
    return found


def _train(trainer: Trainer, run: Run, display: Display) -> int:
    """Train, and take the best weights; the step that they are from."""
    model = run.model
    before = digest(model.towers)
    reached = trainer.run()
    wait()
    if digest(model.towers) != before:
        raise PluginError("The frozen weights are not what they were before training: a part or a plugin changes them.")
    best = CheckpointStore(run.directory / "checkpoints").open("best")
    load_trainable_state(model, best.model_state())
    model.eval()
    scores = run.results.measured(run.results.selected_on, best.progress.scores)
    run.results = replace(scores, skipped_steps=reached.skipped)
    display.line(f"best on {run.results.selected_on}: epoch {best.progress.epoch}")
    return best.progress.step


@contextmanager
def _ending(
    run: Run,
    files: ExitStack,
    listeners: Listeners,
    signals: Signals,
    *,
    banner: Sequence[str],
    outer: bool,
) -> Iterator[None]:
    """Tell how what stands in it ended, and close what is written."""
    status: Status = "failed"
    try:
        yield
        status = "finished"
    except (KeyboardInterrupt, Preempted):
        status = "interrupted"
        raise
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise _disk_fault(error, run.directory) from error
    finally:
        failure = traceback.format_exc() if status == "failed" else ""
        if status != "interrupted":  # then they may be stuck, and `Signals` ends them
            run.data.close()
        try:
            with files:
                farewell = (_farewell(run.directory, signals, status),) if status != "finished" and outer else ()
                listeners.tell("run_finished", status, farewell, failure, banner)
        except (AVCoreError, OSError) as error:
            # Nothing can be written. If something stopped the run before, that says more and is on its way.
            if status == "finished":
                if isinstance(error, OSError) and error.errno in DISK_FAULTS:
                    raise _disk_fault(error, run.directory) from error
                raise


def _farewell(directory: Path, signals: Signals, status: Status) -> str:
    by = f" by {signals.received.name}" if signals.received else ""
    reached = "what was reached is saved" if any(directory.glob("checkpoints/*")) else "nothing was saved yet"
    return f"{status}{by}; {reached}; to go on: avcore run --resume {typed(directory)}"


def results_of(model: AVModel, registry: Registry, seconds: float = 0.0) -> RunResult:
    """What is known before anything is measured."""
    config = model.config
    counted = count_parameters(model).to_dict()
    # What papers print belongs to the recipe, not to the results.
    del counted["published"]
    return RunResult(
        task=config.task,
        dataset=config.data.dataset,
        protocol=config.protocol,
        method=config.method if config.prompts or config.fusions else None,
        recipe=config.recipe,
        streams=config.streams,
        prompts=config.prompts,
        fusions=config.fusions,
        visual=config.visual.backbone,
        audio=config.audio.backbone,
        text=config.text.backbone,
        text_audio=config.text_audio.backbone,
        seed=config.seed,
        frozen=config.frozen,
        selected_on=config.selected_on,
        score_name=model.task.score,
        params=counted,
        seconds=seconds,
        plugins=offers_of(config, registry),
        versions=versions(),
        threads=torch.get_num_threads(),
        commit=commit_of(Path(__file__).parent),
    )


def _table_of(run: Run) -> str:
    rows = [[name, part["parameters"], part["trainable"]] for name, part in run.results.params["parts"].items()]
    return render_markdown(["component", "parameters", "trainable"], rows)
