"""What the light module declares, and that it is light."""

import importlib.resources
import subprocess
import sys

import avcore_avs
from avcore.config.recipes import parse_yaml
from avcore.tasks import Head, Task


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, avcore_avs; [list(f()) for f in (avcore_avs.avcore_heads, avcore_avs.avcore_tasks, "
        "avcore_avs.avcore_datasets)]; print(sorted({'torch', 'numpy', 'PIL', 'av', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_declared_can_be_loaded_and_made() -> None:
    heads = {spec.name: spec for spec in avcore_avs.avcore_heads()}
    assert all(issubclass(spec.load(), Head) for spec in heads.values())
    tasks = {spec.name: spec for spec in avcore_avs.avcore_tasks()}
    assert tasks.keys() == {"avs", "avs-ms3"}
    for spec in tasks.values():
        assert spec.head in heads
        assert isinstance(spec.load()(spec.config()), Task)
    assert tasks["avs"].config().supervised_frames == "first"
    assert tasks["avs-ms3"].config().avm_weight == 0.5
    for spec in avcore_avs.avcore_datasets():
        assert callable(spec.load())
        assert set(spec.tasks) <= tasks.keys()
        assert spec.config().size == heads["avs.decoder"].config().size


def test_published_numbers_have_sources_and_known_names() -> None:
    text = (importlib.resources.files("avcore_avs") / "published.yaml").read_text(encoding="utf-8")
    rows = parse_yaml(text, "published.yaml")["published"]
    tasks = {spec.name for spec in avcore_avs.avcore_tasks()}
    datasets = {spec.name for spec in avcore_avs.avcore_datasets()}
    assert rows
    for row in rows:
        assert row["task"] in tasks
        assert row["dataset"] in datasets
        assert row["metric"] in ("M_J", "M_F")
        assert 0 < row["value"] < 100
        assert row["source"]
        assert row["split"]
        assert row["method"]
