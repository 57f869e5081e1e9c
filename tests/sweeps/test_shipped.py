"""What methods ship as their papers' tables: every row assembles, and trains as much as is printed beside it."""

import pytest

from avcore.config import resolve_config
from avcore.registry import load_registry
from avcore.runs.base import build_model
from avcore.shapes import WithoutValues
from avcore.sweeps import find_grid, shipped_grids

COMMON = ("method", "task", "recipe", "prompts", "fusions", "streams", "visual", "audio", "text", "text_audio")
PRINTED_OTHERWISE = ("none",)
"""Rows whose printed count is a slip; their files say so."""


@pytest.mark.parametrize("name", sorted(shipped_grids(load_registry())))
def test_every_row_of_a_shipped_sweep_assembles(name: str) -> None:
    registry = load_registry()
    grid = find_grid(name, registry)
    assert grid.summary
    for row in grid.rows:
        given = {key: value for key, value in row.arguments.items() if key in COMMON}
        config = resolve_config(registry, **given, sets=row.set, need_data=False).config  # type: ignore[arg-type]
        with WithoutValues():
            model = build_model(config, registry, meta=True)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained > 0, row.name
        printed = row.published.get("trainable_M")
        if printed is not None and row.name not in PRINTED_OTHERWISE:
            assert trained / 1e6 == pytest.approx(printed, abs=0.031), row.name
