"""Predicted events as files: JSON and CSV."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from avcore.report.overlay import save_bytes
from avcore.tasks import Event

__all__ = ["COLUMNS", "save_events"]

COLUMNS = ("class", "modality", "start", "end", "probability")
"""Of the table; times in s from the beginning of the video."""


def save_events(events: Sequence[Event], json_file: Path, csv_file: Path) -> None:
    """Write events, ordered by their beginning, as a list of objects and as a table with a header.

    Raises:
        AVCoreError: nothing can be written there.
    """
    rows = [
        (one.label, one.modality, round(one.start_s, 3), round(one.stop_s, 3), _rounded(one.probability))
        for one in sorted(events, key=lambda one: (one.start_s, one.label, one.modality))
    ]
    objects = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    save_bytes((json.dumps(objects, indent=2, ensure_ascii=False) + "\n").encode(), json_file)
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    save_bytes(table.getvalue().encode(), csv_file)


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)
