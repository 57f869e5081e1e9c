"""One run, from the configuration to the results: assemble, read, train, evaluate, write down."""

import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avcore.config import Resolved, RunConfig
from avcore.discovery import Lifecycle
from avcore.engine.board import Board
from avcore.engine.checkpoint import Checkpoint, CheckpointStore
from avcore.engine.device import choose_device
from avcore.engine.display import Display
from avcore.engine.evaluate import Evaluation, Example, split_and_sound
from avcore.engine.fit import Fit
from avcore.engine.loop import NonFiniteError
from avcore.engine.randomness import determinism, isolated_randomness
from avcore.engine.records import RunRecord, commit_of, peak_bytes, refuse_used, reset_peak, versions
from avcore.engine.reporter import Reporter
from avcore.engine.signals import Preempted, Signals
from avcore.errors import DISK_FAULTS, AVCoreError, PluginError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.report.tables import render_markdown
from avcore.runs.base import Run, build_model
from avcore.runs.data import RunData, open_files
from avcore.runs.offers import offers_of, refuse_other_majors
from avcore.runs.pictures import draw_example, save_pictures
from avcore.runs.resume import describe_versions, has_run, is_finished, refuse_changes, results_in
from avcore.runs.summary import DEMO, describe_config, describe_results

__all__ = ["execute", "head_alone"]

PICTURES = 8
"""Clips of the test split that are drawn at the end."""
GLANCES = 2
"""Clips that TensorBoard shows at each evaluation while training."""


def head_alone(resolved: Resolved) -> Resolved:
    """The same run without its parts: what the head reaches by itself."""
    left = {kind: names for kind, names in resolved.config.full_names.items() if kind not in ("prompts", "fusions")}
    config = replace(
        resolved.config,
        prompts=(),
        fusion=(),
        parts={},
        part_streams={},
        part_scales={},
        baseline=False,
        full_names=left,
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
    registry = registry.recorded(config.full_names)
    display = Display(quiet=quiet)
    going_on = resume and has_run(directory)
    if going_on:
        refuse_other_majors(f"The run {directory}", results_in(directory), registry)
        changed = refuse_changes(resolved, directory, registry)
        if is_finished(directory, changed):
            display.line(f"{directory} is finished; there is nothing to go on with.")
            return Run(directory, config, registry, results=results_in(directory))
        notes = (*notes, *describe_versions(directory))
    else:
        refuse_used(directory, resume=resume)
    device = choose_device(config.device)
    demo = config.data.dataset is not None and registry.datasets[config.data.dataset].demo
    if demo and outer:
        display.line(DEMO)
    for note in notes:
        display.line(note)
    display.line(describe_config(config))
    with Signals() as signals, isolated_randomness(), determinism(config.deterministic):
        reset_peak(device)
        started = time.monotonic()
        # Before the weights, which may have to be fetched: a wrong folder shows at once.
        dataset, root = open_files(config, registry, display.quarters(f"making {config.data.dataset}"))
        for name in ("train", *config.train.evaluate):
            dataset.clips(split_and_sound(name, dataset.splits)[0])
        model = build_model(config, registry)
        for notice in model.notices:
            display.line(notice)
        run = Run(directory, config, registry)
        run.adopt(model, RunData(config, model, dataset, root))
        execution = _Execution(run, resolved, display, signals, started, resume=resume)
        status = "failed"
        try:
            execution.start()
            execution.train()
            execution.measure()
            if config.baseline and (config.prompts or config.fusion):
                display.line("\nThe head alone, with the same recipe:")
                inner = execute(
                    head_alone(resolved), registry, directory / "baseline", quiet=quiet, outer=False, resume=resume
                )
                run.results["baseline"] = inner.results["metrics"]
            if outer:
                tables = describe_results(run.results, execution.pictures, seconds=time.monotonic() - started)
                display.line(f"\n{tables}\nrun: {directory}")
            status = "finished"
        except (KeyboardInterrupt, Preempted):
            status = "interrupted"
            raise
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                raise
            raise _disk_fault(error, directory) from error
        finally:
            execution.finish(status, banner=DEMO if demo and outer else "", outer=outer)
    return run


def _disk_fault(error: OSError, directory: Path) -> AVCoreError:
    # TensorBoard tells no name.
    path = directory if error.filename is None else Path(error.filename)
    what = "write" if path.is_relative_to(directory) else "use"
    return AVCoreError(f"Cannot {what} {path}: {error.strerror}.")


class _Execution:
    """The parts of a run that write into its directory."""

    def __init__(
        self, run: Run, resolved: Resolved, display: Display, signals: Signals, started: float, *, resume: bool
    ) -> None:
        self.run = run
        self.resolved = resolved
        self.config: RunConfig = resolved.config
        self.display = display
        self.signals = signals
        self.started = started
        # Those of a run that goes on; 0 for a new one.
        self.seconds_before = float(results_in(run.directory).get("seconds", 0.0))
        self.device = choose_device(self.config.device)
        self.select_on = "val" if self.config.protocol == "clean" else "test"
        self.pictures: list[str] = []
        # Asked for now, so that a missing split or a swap that cannot be made shows before the training, not after it.
        self.extra = self._extra_splits()
        for name in dict.fromkeys((self.select_on, *self.extra)):
            run.data.loader(name)
        self.train_loader = run.data.loader("train", train=True)
        if left := self.train_loader.left_out:
            display.line(
                f"train: {left} of {len(self.train_loader.clips)} clips are left out of each epoch, others each time: "
                f"they fill no batch of {self.config.train.batch_size} (train.drop_last=false trains on them)"
            )
        self.versions = versions()
        self.record = RunRecord(run.directory, resume=resume)
        self.record.write_config(resolved.tree())
        self.display.attach(self.record.log)
        self.store = CheckpointStore(self.record.checkpoints)
        self.checkpoint = self._find_checkpoint() if resume else None
        # What was logged after the checkpoint is logged again; the checkpoint's own scores carry its number of steps.
        kept = 0 if self.checkpoint is None else self.checkpoint.progress.step + 1
        self.board = Board(run.directory, purge_step=kept if resume else None)
        self.reporter = Reporter(
            run, display, self.board, Lifecycle(run.registry.plugins), log_every=self.config.train.log_every
        )

    def start(self) -> None:
        """Write down what will be done, tell the hooks, and decode what is not in the cache yet."""
        model = self.run.model
        self.run.results = self._results()
        self.record.write_results(self.run.results, "interrupted")
        rows = [
            [name, part["parameters"], part["trainable"]] for name, part in self.run.results["params"]["parts"].items()
        ]
        self.board.text("parameters", render_markdown(["component", "parameters", "trainable"], rows))
        self.reporter.started()
        self.reporter.assembled(model)
        self.run.data.prepare(("train", self.select_on, *self.extra), self.display)

    def train(self) -> None:
        """Train, and take the best weights."""
        model = self.run.model
        before = model.digest()
        reached = Fit(
            model=model,
            loader=self.train_loader,
            config=self.config,
            device=self.device,
            select=self._select,
            score=model.task.score,
            store=self.store,
            reporter=self.reporter,
            signals=self.signals,
            digest=model.backbone_digest,
            versions=self.versions,
            nonfinite=self._write_nonfinite,
            start=self.checkpoint,
        ).run()
        if model.digest() != before:
            raise PluginError(
                "The frozen weights are not what they were before training: a part or a plugin changes them."
            )
        self.run.results["skipped_steps"] = reached.skipped
        best = self.store.open("best")
        model.load_trainable_state(best.model_state())
        model.eval()
        self.run.results["metrics"][self.select_on] = dict(best.progress.scores)
        self.step = best.progress.step
        self.display.line(f"best on {self.select_on}: epoch {best.progress.epoch}")

    def measure(self) -> None:
        """Evaluate the best weights on the splits that were asked for, and draw their first clips."""
        drawn: dict[str, dict[str, list[Example]]] = {}
        for name in self.extra:
            found = self._evaluate(name, PICTURES, step=self.step)
            self.run.results["metrics"][name] = found.scores
            split, sound = self.run.data.split(name)
            drawn.setdefault(split, {})[sound] = found.examples
        for split, by_sound in drawn.items():
            paths = save_pictures(self.run.model.task, split, by_sound, self.record.pictures)
            if paths:
                self.pictures.append(str(self.record.pictures / f"{split}-*.png"))
            self._show(split, by_sound, self.step)
        self._measure_effort()

    def finish(self, status: str, *, banner: str, outer: bool) -> None:
        """Write the results as far as they go, and say how it ended."""
        failure = traceback.format_exc() if status == "failed" else ""
        try:
            with closing(self.record), closing(self.board):
                self._close(status, failure, banner=banner, outer=outer)
        except (AVCoreError, OSError) as error:
            # Nothing can be written. If something stopped the run before, that says more and is on its way.
            if status != "finished":
                return
            if isinstance(error, OSError) and error.errno in DISK_FAULTS:
                raise _disk_fault(error, self.run.directory) from error
            raise

    def _close(self, status: str, failure: str, *, banner: str, outer: bool) -> None:
        if status != "finished" and outer:
            self.display.line(self._farewell(status))
        if failure:
            self.display.record(failure)
        if banner:
            self.display.line(banner)
        self.run.results["status"] = status
        self.run.results["broken"] = self.run.data.broken
        if status != "finished":
            self._measure_effort()
        self.record.write_results(self.run.results, status)
        self.reporter.finished(status)

    def _farewell(self, status: str) -> str:
        by = f" by {self.signals.received.name}" if self.signals.received else ""
        reached = "what was reached is saved" if any(self.record.checkpoints.iterdir()) else "nothing was saved yet"
        return f"{status}{by}; {reached}; to go on: avcore run --resume {self.run.directory}"

    def _measure_effort(self) -> None:
        self.run.results["seconds"] = round(self.seconds_before + time.monotonic() - self.started, 3)
        self.run.results["peak_bytes"] = peak_bytes(self.device)

    def _find_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from.

        Raises:
            AVCoreError: all are damaged, or it belongs to other frozen weights.
        """
        found, damaged = self.store.resume()
        for reason in damaged:
            self.display.line(reason)
        if found is None:
            self.display.line("no checkpoint to go on from: it begins with step 0")
            return None
        expected = self.run.model.backbone_digest
        if found.frozen_digest != expected:
            raise AVCoreError(
                f"{self.run.directory} was trained on other frozen weights ({found.frozen_digest[:12]}) than those of "
                f"'{self.config.visual.backbone}' here ({expected[:12]}): it cannot go on with these."
            )
        done = found.progress
        self.display.line(f"going on after step {done.step} (epoch {done.epoch + (done.position > 0)}), {found.path}")
        return found

    def _write_nonfinite(self, error: NonFiniteError) -> Path:
        return self.record.write_nonfinite(error.report, self.resolved.tree())

    def _extra_splits(self) -> list[str]:
        kept = []
        for name in self.config.train.evaluate:
            _, sound = split_and_sound(name, self.run.data.dataset.splits)
            if sound != "own" and self.run.model.sound is None:
                self.display.line(f"{name} is left out: this run has no audio stream.")
            else:
                kept.append(name)
        return kept

    def _select(self, step: int) -> Mapping[str, float]:
        found = self._evaluate(self.select_on, GLANCES, step=step)
        self._show(self.select_on, {"own": found.examples}, step)
        self._measure_effort()
        self.record.write_results(self.run.results, "interrupted")
        return found.scores

    def _evaluate(self, name: str, examples: int, *, step: int) -> Evaluation:
        total = len(self.run.data.loader(name))
        with self.display.progress(f"evaluating {name}", total, every=None) as advance:
            found = self.run.examine(name, examples=examples, progress=lambda done: advance(done, ""))
        self.reporter.evaluated(name, found.scores, step=step)
        return found

    def _show(self, split: str, by_sound: Mapping[str, list[Example]], step: int) -> None:
        """Pictures for TensorBoard."""
        for number, examples in enumerate(zip(*by_sound.values(), strict=True)):
            if number < GLANCES and examples[0].frames is not None:
                picture = draw_example(self.run.model.task, dict(zip(by_sound, examples, strict=True)))
                self.board.picture(f"{split}/{number + 1}", picture, step)

    def _results(self) -> dict[str, Any]:
        config, model = self.config, self.run.model
        return {
            "task": config.task,
            "dataset": config.data.dataset,
            "protocol": config.protocol,
            "selected_on": self.select_on,
            "method": config.method if config.prompts or config.fusion else None,
            "prompts": list(config.prompts),
            "fusion": list(config.fusion),
            "visual": config.visual.backbone,
            "audio": config.audio.backbone,
            "seed": config.seed,
            "metrics": {},
            "baseline": None,
            "params": _params(model),
            "seconds": self.seconds_before,
            "peak_bytes": 0,
            "skipped_steps": 0,
            "broken": {},
            "plugins": offers_of(config, self.run.registry),
            "versions": self.versions,
            "threads": torch.get_num_threads(),
            "commit": commit_of(Path(__file__).parent),
            "status": "interrupted",
        }


def _params(model: AVModel) -> dict[str, Any]:
    counted = count_parameters(model).to_dict()
    # What papers print belongs to the recipe, not to the results.
    del counted["published"]
    return counted
