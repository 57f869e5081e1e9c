"""A record of results as a run of a toy would leave it."""

from typing import Any

from avcore.engine.result import RunResult


def result(**changed: Any) -> RunResult:
    """A finished run of method ``m`` on ``seg-files``, selected on ``score``; fields may be given."""
    fields: dict[str, Any] = {
        "task": "seg",
        "dataset": "seg-files",
        "protocol": "clean",
        "method": "m",
        "prompts": ("m.rows",),
        "fusions": (),
        "visual": "vit",
        "audio": None,
        "text": None,
        "seed": 3,
        "selected_on": "val",
        "score_name": "score",
        "metrics": {"val": {"score": 50.0}, "test": {"other": 1, "score": 61.25}},
        "params": {"parts": {}, "trainable": 0},
        "seconds": 12.4,
        "plugins": {},
        "versions": {"avcore": "0.1.0"},
        "threads": 1,
        "commit": None,
        "status": "finished",
    }
    return RunResult(**{**fields, **changed})
