"""What STG-CMA sets on the demos."""

import pytest

import avcore_stgcma
from avcore.config import demo_tasks_of, resolve_config
from avcore.registry import load_registry

(STGCMA,) = avcore_stgcma.avcore_methods()


@pytest.mark.parametrize("task", demo_tasks_of(STGCMA))
def test_no_mean_is_asked_for_of_epochs_that_a_demo_has_not(task: str) -> None:
    config = resolve_config(load_registry(), method="stgcma", task=task).config
    assert config.data.dataset is not None
    assert config.data.dataset.startswith("demo-")
    assert (config.train.average, config.train.average_epochs) == ("none", None)
    assert config.train.augment.visual == ()
