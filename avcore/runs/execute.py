"""One run, from the configuration to the results: assemble, read, train, evaluate, write down."""

import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from avcore.config import Resolved, RunConfig
from avcore.discovery import Lifecycle
from avcore.engine.board import Board
from avcore.engine.checkpoint import CheckpointStore
from avcore.engine.device import choose_device
from avcore.engine.display import Display
from avcore.engine.evaluate import Evaluation, Example, split_and_sound
from avcore.engine.fit import fit
from avcore.engine.randomness import determinism, isolated_randomness
from avcore.engine.records import RunRecord, commit_of, peak_bytes, refuse_used, reset_peak, versions
from avcore.engine.reporter import Reporter
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.report.parameters import count_parameters
from avcore.report.tables import render_markdown
from avcore.runs.base import Run, build_model
from avcore.runs.data import RunData, open_files
from avcore.runs.pictures import draw_example, save_pictures
from avcore.runs.summary import DEMO, describe_config, describe_results

__all__ = ["execute", "head_alone"]

PICTURES = 8
"""Clips of the test split that are drawn at the end."""
GLANCES = 2
"""Clips that TensorBoard shows at each evaluation while training."""


def head_alone(resolved: Resolved) -> Resolved:
    """The same run without its parts: what the head reaches by itself."""
    config = replace(resolved.config, prompts=(), fusion=(), parts={}, part_streams={}, baseline=False)
    return Resolved(config=config, origins={})


def execute(resolved: Resolved, registry: Registry, directory: Path, *, quiet: bool = False, outer: bool = True) -> Run:
    """Train and measure as the configuration says, and leave everything in ``directory``.

    Args:
        resolved: the configuration.
        registry: where its names are looked up.
        directory: new or empty.
        quiet: show nothing; the log has it all.
        outer: False for a run within another, which shows no banner and no tables.

    Raises:
        AVCoreError: something that the user can mend; nothing is left in ``directory`` when it shows before training.
    """
    config = resolved.config
    refuse_used(directory)
    device = choose_device(config.device)
    display = Display(quiet=quiet)
    demo = config.data.dataset is not None and registry.datasets[config.data.dataset].demo
    if demo and outer:
        display.line(DEMO)
    display.line(describe_config(config))
    with isolated_randomness(), determinism(config.deterministic):
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
        execution = _Execution(run, resolved, display, started)
        execution.start()
        status = "failed"
        try:
            execution.train()
            execution.measure()
            if config.baseline and (config.prompts or config.fusion):
                display.line("\nThe head alone, with the same recipe:")
                inner = execute(head_alone(resolved), registry, directory / "baseline", quiet=quiet, outer=False)
                run.results["baseline"] = inner.results["metrics"]
            if outer:
                tables = describe_results(run.results, execution.pictures, seconds=time.monotonic() - started)
                display.line(f"\n{tables}\nrun: {directory}")
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            display.line(f"Interrupted; what was reached lies in {directory}.")
            raise
        except Exception:
            display.record(traceback.format_exc())
            raise
        finally:
            if demo and outer:
                display.line(DEMO)
            execution.finish(status)
    return run


class _Execution:
    """The parts of a run that write into its directory."""

    def __init__(self, run: Run, resolved: Resolved, display: Display, started: float) -> None:
        self.run = run
        self.resolved = resolved
        self.config: RunConfig = resolved.config
        self.display = display
        self.started = started
        self.device = choose_device(self.config.device)
        self.select_on = "val" if self.config.protocol == "clean" else "test"
        self.pictures: list[str] = []
        # Asked for now, so that a missing split or a swap that cannot be made shows before the training, not after it.
        self.extra = self._extra_splits()
        for name in dict.fromkeys((self.select_on, *self.extra)):
            run.data.loader(name)
        self.train_loader = run.data.loader("train", train=True)
        self.versions = versions()
        self.record = RunRecord(run.directory)
        self.display.attach(self.record.log)
        self.board = Board(run.directory)
        self.reporter = Reporter(
            run, display, self.board, Lifecycle(run.registry.plugins), log_every=self.config.train.log_every
        )

    def start(self) -> None:
        """Write down what will be done, tell the hooks, and decode what is not in the cache yet."""
        model = self.run.model
        self.record.write_config(self.resolved.tree())
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
        store = CheckpointStore(self.record.checkpoints)
        fit(
            model,
            self.train_loader,
            config=self.config,
            device=self.device,
            select=self._select,
            score=model.task.score,
            store=store,
            reporter=self.reporter,
            digest=model.backbone_digest,
            versions=self.versions,
        )
        if model.digest() != before:
            raise AVCoreError(
                "The frozen weights are not what they were before training: a part or a plugin changes them."
            )
        best = store.open("best")
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
        self.run.results["seconds"] = round(time.monotonic() - self.started, 3)
        self.run.results["peak_bytes"] = peak_bytes(self.device)

    def finish(self, status: str) -> None:
        """Write the results as far as they go."""
        self.run.results["status"] = status
        if status != "finished":
            self.run.results["seconds"] = round(time.monotonic() - self.started, 3)
            self.run.results["peak_bytes"] = peak_bytes(self.device)
        self.record.write_results(self.run.results, status)
        self.reporter.finished(status)
        self.board.close()
        self.record.close()

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
            "seconds": 0.0,
            "peak_bytes": 0,
            "versions": self.versions,
            "commit": commit_of(Path(__file__).parent),
            "status": "interrupted",
        }


def _params(model: AVModel) -> dict[str, Any]:
    counted = count_parameters(model).to_dict()
    # What papers print belongs to the recipe, not to the results.
    del counted["published"]
    return counted
