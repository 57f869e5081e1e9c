"""What lies in the folder of a sweep: each run that its grid asks for, and what became of it. Imports no torch.

::

    DIR/sweep.json                   the grid, and what the command line said of this machine
    DIR/ROW-DIGEST/seed-0/           a run like any other
    DIR/ROW-DIGEST/seed-0.log        what it printed
    DIR/ROW-DIGEST/seed-0.failed     why it failed, the last time
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from avcore.engine.files import read_json, write_json
from avcore.engine.listing import ListedRun, read_run
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError
from avcore.sweeps.grid import Grid, Row, grid_from

__all__ = ["Given", "State", "Sweep", "SweptRun"]

FORMAT = 1
State = Literal["waiting", "interrupted", "failed", "finished"]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the command line says of this machine and not of the runs.

    Attributes:
        data: folder of the data set; a row's own goes before it.
        device: as ``avcore run --device``.
        sets: further settings, such as files of weights.
    """

    data: str | None = None
    device: str | None = None
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        row: what it is one of.
        seed: of its draws.
        directory: where it goes.
    """

    row: Row
    seed: int
    directory: Path

    @property
    def name(self) -> str:
        """For people: the row and the seed."""
        return self.row.name if self.row.zero_shot else f"{self.row.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.directory.with_name(f"{self.directory.name}.log")

    @property
    def failure(self) -> Path:
        """Where the reason is written if it fails."""
        return self.directory.with_name(f"{self.directory.name}.failed")

    def read(self) -> ListedRun:
        """What its directory says of itself."""
        return read_run(self.directory)

    @property
    def results(self) -> RunResult | None:
        """What it reached, once it is finished."""
        found = self.read().results if (self.directory / "results.json").is_file() else None
        return found if found is not None and found.status == "finished" else None

    @property
    def reason(self) -> str:
        """Why it failed; empty where it did not."""
        return self.failure.read_text(encoding="utf-8").strip() if self.failure.is_file() else ""

    @property
    def state(self) -> State:
        """``waiting`` before it was begun; a run that is under way reads as ``interrupted``."""
        if self.results is not None:
            return "finished"
        if self.failure.is_file():
            return "failed"
        return "interrupted" if self.directory.is_dir() else "waiting"

    def command(self, given: Given) -> list[str]:
        """What stands behind ``avcore`` to begin it, or to go on with it."""
        return self.row.command(self.seed, self.directory, data=given.data, device=given.device, sets=given.sets)


@dataclass(frozen=True)
class Sweep:
    """A grid in a folder.

    Attributes:
        directory: the folder.
        grid: what is asked for.
        given: what this machine adds.
    """

    directory: Path
    grid: Grid
    given: Given = Given()

    @classmethod
    def read(cls, directory: Path) -> Sweep:
        """The sweep that was begun in a folder.

        Raises:
            AVCoreError: none was, or its record is damaged.
        """
        file = directory / "sweep.json"
        if not file.is_file():
            raise AVCoreError(f"There is no sweep in '{directory}': name the folder that 'avcore sweep --out' made.")
        content = read_json(file)
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise AVCoreError(f"{file} is no record of a sweep that this avcore reads: give its GRID.yaml again.")
        try:
            given = {**content["given"], "sets": tuple(content["given"]["sets"])}
            return cls(directory, grid_from(content["grid"], content["name"], str(file)), Given(**given))
        except (KeyError, TypeError) as error:
            raise AVCoreError(f"{file} is damaged ({error}): give its GRID.yaml again.") from error

    def write(self) -> None:
        """Write ``sweep.json``."""
        self.directory.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {"data": self.given.data, "device": self.given.device, "sets": list(self.given.sets)}
        record = {"format": FORMAT, "name": self.grid.name, "given": given, "grid": self.grid.tree}
        write_json(self.directory / "sweep.json", record)

    def runs_of(self, row: Row) -> list[SweptRun]:
        """The runs of a row, one for each seed."""
        return [SweptRun(row, seed, self.directory / row.key / f"seed-{seed}") for seed in row.seeds]

    @property
    def runs(self) -> list[SweptRun]:
        """All, first those of the first seed: a table has all its rows early."""
        every = [self.runs_of(row) for row in self.grid.rows]
        longest = max(map(len, every), default=0)
        return [of_row[place] for place in range(longest) for of_row in every if place < len(of_row)]

    def results(self) -> list[tuple[Row, Sequence[SweptRun]]]:
        """The rows, in the order of the grid, each with those of its runs that are finished."""
        return [(row, [run for run in self.runs_of(row) if run.results]) for row in self.grid.rows]
