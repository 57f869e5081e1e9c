"""DG-SCT on the demo: sound shares the small trunk, and one stage of the decoder listens."""

import pytest

from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.registry import load_registry


@pytest.mark.parametrize("task", ["avs", "avs-ms3"])
def test_it_runs_on_the_demo_with_nothing_said(task: str) -> None:
    registry = load_registry()
    config = resolve_config(registry, method="dgsct", task=task).config
    assert (config.data.dataset or "").startswith("demo-")
    assert (config.head.name, config.head.settings.tpavi_stages) == ("dgsct.avs", (3,))
    assert config.audio.backbone is None
    model = assemble(config, registry, meta=True)
    assert not any("stay as they are" in notice for notice in model.notices)
