"""The recipes of the methods: what they train, on the meta device, against the published counts."""

import pytest

from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.registry import load_registry
from avcore.report.parameters import count_parameters


@pytest.mark.parametrize(
    ("method", "trained", "head"),
    [
        ("stfp", 9_333_644, 8_572_716),  # 9.3 M printed
        ("stgcma", 26_339_000, 8_900_396),
        ("dgsct", 186_336_456 + 66_870_444, 66_870_444),  # 186.3 M printed without the head
        ("copl", 13_985_452, 8_900_268),
        ("lavish", 21_876_588, 8_900_268),
    ],
)
def test_counts(method: str, trained: int, head: int) -> None:
    registry = load_registry()
    resolved = resolve_config(registry, method=method, task="avqa", need_data=False)
    model = assemble(resolved.config, registry, meta=True)
    assert sum(parameter.numel() for parameter in model.head.parameters()) == head
    assert count_parameters(model).trainable == trained
    assert resolved.config.train.select == "val"
    way = "parts" if method in ("stfp", "stgcma") else "plain"
    assert model.head.companions == {"negative": way}
