"""What became of the checks of one plugin. Imports nothing heavy."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Report", "Result", "State"]

State = Literal["passed", "failed", "skipped", "expected failure"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one check.

    Attributes:
        id: such as ``prompt vpt: batch equivariance``.
        state: ``passed``; ``failed``, also where an expected failure passed; ``skipped``; ``expected failure``.
        reason: what failed and what to do, or why it was skipped or expected to fail; empty if it passed.
        seconds: how long it took, s.
    """

    id: str
    state: State
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of all checks of a distribution.

    Attributes:
        distribution, version: of what was checked.
        results: one for each check, in the order in which they ran.
    """

    distribution: str
    version: str
    results: tuple[Result, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many checks: ``run`` is all but those skipped."""
        states = [result.state for result in self.results]
        return {
            "run": len(states) - states.count("skipped"),
            "passed": states.count("passed"),
            "failed": states.count("failed"),
            "skipped": states.count("skipped"),
            "expected_failures": states.count("expected failure"),
        }

    @property
    def ok(self) -> bool:
        """Nothing failed, and something ran."""
        return self.counts["failed"] == 0 and self.counts["run"] > 0

    def to_json(self) -> str:
        """Distribution, version, ``ok``, counts and results as JSON."""
        record = {
            "distribution": self.distribution,
            "version": self.version,
            "ok": self.ok,
            "counts": self.counts,
            "results": [asdict(result) for result in self.results],
        }
        return json.dumps(record, indent=2)
