"""What CoPL sets on the demo, and where it is written."""

from typing import Any

import pytest

from avcore.config import Resolved, resolve_config
from avcore.config.leaves import flatten
from avcore.registry import load_registry

DATA = {"avs": "demo-s4", "avs-ms3": "demo-ms3"}
SETTINGS = {
    "parts.copl.rows.length": 8,
    "parts.copl.coupling.length": 8,
    "parts.copl.coupling.last": 6,
    "parts.copl.coupling.reduction": 1,
    "parts.copl.coupling.std": 0.25,
    "optim.lr": 4e-3,
}
BELOW = {"optim.optimizer": "adam", "head.tpavi_stages": [], "train.epochs": 5}
"""What the recipe and the demo set, which the recipe for demos leaves alone."""


def resolved(task: str, method: str = "copl", **given: Any) -> Resolved:
    return resolve_config(load_registry(), method=method, task=task, **given)


@pytest.mark.parametrize("task", DATA)
def test_the_settings_on_the_demo(task: str) -> None:
    found = resolved(task)
    leaves = flatten(found.tree())
    assert found.config.data.dataset == DATA[task]
    assert {key: leaves[key] for key in SETTINGS | BELOW} == SETTINGS | BELOW
    of_demo = {key for key, layer in found.origins.items() if layer == f"recipe copl/{task}.demo"}
    assert of_demo == set(SETTINGS)


@pytest.mark.parametrize("task", DATA)
def test_real_data_have_the_recipe_alone(task: str) -> None:
    found = resolved(task, need_data=False)
    assert f"recipe copl/{task}.demo" not in found.origins.values()
