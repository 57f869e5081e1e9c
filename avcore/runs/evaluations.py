"""The evaluations of a run: of the split that selects while it trains, and of the others with the best weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avcore.data.changes import OWN, with_muted
from avcore.engine.clips import write_clips
from avcore.engine.display import Display
from avcore.engine.evaluate import Evaluation, Example
from avcore.engine.listeners import Listeners
from avcore.ranks import ranks
from avcore.runs.base import Run
from avcore.runs.pictures import save_pictures

__all__ = ["Evaluations", "splits_of"]

PICTURES = 8
"""Clips of the test split that are drawn at the end."""
GLANCES = 2
"""Clips that TensorBoard shows at each evaluation while training."""


def splits_of(run: Run, display: Display) -> list[str]:
    """The splits to measure at the end.

    Asked for before training, so that a missing split or a swap that cannot be made shows then.
    """
    kept, wanted = [], run.config.train.evaluate
    for name in with_muted(wanted, run.data.dataset.splits) if run.config.shapley else wanted:
        if missing := run.data.not_run(name):
            display.line(f"{name} is left out: this run has no {missing} stream.")
        else:
            kept.append(name)
    for name in dict.fromkeys((run.results.selected_on, *kept)):
        run.data.loader(name)
    return kept


@dataclass(frozen=True)
class Evaluations:
    """Evaluates the model of a run as it is; the person sees how far it is, listeners are told what came out."""

    run: Run
    display: Display
    listeners: Listeners

    def select(self, step: int) -> Mapping[str, float]:
        """The scores, after so many steps, of the split that selects the best checkpoint."""
        split = self.run.results.selected_on
        found = self._evaluate(split, GLANCES, step)
        self.listeners.tell("pictured", split, {OWN.words: found.examples}, step)
        return found.scores

    def measure(self, splits: Sequence[str], step: int, folder: Path) -> list[str]:
        """Add the scores of the weights of a step to the results, and draw the first clips; where these lie.

        The scores of each clip alone go to ``clips/SPLIT.json``.
        """
        run = self.run
        pictures: list[str] = []
        drawn: dict[str, dict[str, list[Example]]] = {}
        for name in splits:
            found = self._evaluate(name, PICTURES, step, alone=True)
            if ranks().first:
                write_clips(run.directory, name, found.alone)
            run.results = run.results.measured(name, found.scores)
            split, change = run.data.split(name)
            drawn.setdefault(split, {})[change.words] = found.examples
        for split, found_by_change in drawn.items():
            by_change = _of_the_same_clips(found_by_change)
            if save_pictures(run.model.task, split, by_change, folder):
                pictures.append(str(folder / f"{split}-*.png"))
            self.listeners.tell("pictured", split, by_change, step)
        return pictures

    def _evaluate(self, name: str, examples: int, step: int, *, alone: bool = False) -> Evaluation:
        total, drawn = len(self.run.data.loader(name)), examples if ranks().first else 0
        with self.display.progress(f"evaluating {name}", total, every=None) as advance:
            found = self.run.examine(name, examples=drawn, alone=alone, progress=lambda done: advance(done, ""))
        self.listeners.tell("evaluated", name, found.scores, step)
        return found


def _of_the_same_clips(by_change: Mapping[str, list[Example]]) -> dict[str, list[Example]]:
    """The clips that all have: one whose own sound can be read may be skipped where it is given a broken clip's."""
    shared = set.intersection(*({one.name for one in examples} for examples in by_change.values()))
    return {words: [one for one in examples if one.name in shared] for words, examples in by_change.items()}
