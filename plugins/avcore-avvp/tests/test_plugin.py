"""What the light module declares, and that it is light."""

import importlib.resources
import subprocess
import sys

import avcore_avvp
from avcore.config.recipes import parse_yaml
from avcore.tasks import Head, Task
from avcore_avvp.config import FEATURES


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, avcore_avvp; [list(f()) for f in (avcore_avvp.avcore_heads, avcore_avvp.avcore_tasks, "
        "avcore_avvp.avcore_datasets)]; print(sorted({'torch', 'numpy', 'PIL', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_declared_can_be_loaded_and_made() -> None:
    heads, tasks, datasets = avcore_avvp.avcore_heads(), avcore_avvp.avcore_tasks(), avcore_avvp.avcore_datasets()
    assert [head.name for head in heads] == ["avvp.attentive", "avvp.han", "avvp.mgn"]
    assert [task.name for task in tasks] == ["avvp", "avvp-features"]
    for head in heads:
        assert issubclass(head.load(), Head)
        assert all(head.takes(task) for task in tasks)
    for task, dataset in zip(tasks, datasets, strict=True):
        assert isinstance(task.load()(task.config()), Task)
        assert callable(dataset.load())
        assert dataset.tasks == (task.name,)
        assert dataset.marks[:2] == ("AVVP_train.csv", "data/AVVP_train.csv")
        assert task.defaults["train"]["select"] == "val"
    assert tasks[1].defaults["task_options"]["features"] == list(FEATURES)


def test_published_numbers_have_sources_and_known_names() -> None:
    text = (importlib.resources.files("avcore_avvp") / "published.yaml").read_text(encoding="utf-8")
    rows = parse_yaml(text, "published.yaml")["published"]
    datasets = avcore_avvp.avcore_datasets()
    pairs = {(task, dataset.name) for dataset in datasets for task in dataset.tasks}
    ten = {f"{kind}_{name}" for kind in ("segment", "event") for name in ("A", "V", "AV", "Type", "Event")}
    for method in ("AVE", "AVSDN", "HAN", "MGN"):
        assert {row["metric"] for row in rows if row["method"] == method} == ten
    for row in rows:
        assert (row["task"], row["dataset"]) in pairs
        assert 0 < row["value"] < 100
        assert row["split"] == "test"
        assert row["source"]
    type_of_han = {row["metric"]: row["value"] for row in rows if row["method"] == "HAN"}
    assert type_of_han["segment_Type"] == round(sum(type_of_han[f"segment_{name}"] for name in ("A", "V", "AV")) / 3, 1)
