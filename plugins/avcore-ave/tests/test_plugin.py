"""What the light module declares, and that it is light."""

import importlib.resources
import subprocess
import sys

import avcore_ave
from avcore.config.recipes import parse_yaml
from avcore.tasks import Head, Task
from avcore.testing.golden import real_data
from avcore_ave.annotations import read_events
from avcore_ave.datasets import read_order
from avcore_ave.task import AVETask


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, avcore_ave; [list(f()) for f in (avcore_ave.avcore_heads, avcore_ave.avcore_tasks, "
        "avcore_ave.avcore_datasets)]; print(sorted({'torch', 'numpy', 'PIL', 'h5py', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_declared_can_be_loaded_and_made() -> None:
    heads, tasks, datasets = avcore_ave.avcore_heads(), avcore_ave.avcore_tasks(), avcore_ave.avcore_datasets()
    assert [head.name for head in heads] == ["ave.linear", "ave.avel", "ave.cmbs"]
    assert [task.name for task in tasks] == ["ave", "ave-weak"]
    for head in heads:
        assert issubclass(head.load(), Head)
        assert all(head.takes(task) for task in tasks)
    for task in tasks:
        assert task.head == "ave.linear"
        assert isinstance(task.load()(task.config()), Task)
    assert {dataset.name: dataset.tasks for dataset in datasets} == {
        "ave": ("ave",),
        "ave-weak": ("ave-weak",),
        "own-events": ("ave", "ave-weak"),
    }
    assert all(callable(dataset.load()) for dataset in datasets)


def test_its_size_is_that_of_the_official_lists() -> None:
    root = real_data("annotations", "AVE")
    events = read_events(root / "Annotations.txt")
    sizes = {split: len(read_order(root, split, events)) for split in ("train", "val", "test")}
    published = {files.name: files.official for files in avcore_ave.avcore_datasets()}
    assert published == {"ave": sizes, "ave-weak": sizes, "own-events": {}}


def test_published_numbers_have_sources_and_known_names() -> None:
    text = (importlib.resources.files("avcore_ave") / "published.yaml").read_text(encoding="utf-8")
    rows = parse_yaml(text, "published.yaml")["published"]
    assert len(rows) > 10
    for row in rows:
        assert row["task"] == row["dataset"]
        assert row["task"] in ("ave", "ave-weak")
        assert row["metric"] in (AVETask.score, "trainable_M", "total_M")
        assert row["metric"] != AVETask.score or 0 < row["value"] < 100
        assert row["split"] == "test"
        assert row["source"]
        assert row["method"]


ACCURACIES = {
    "AVEL": [74.0],
    "AVEL (sound and picture)": [71.4],
    "AVEL (with attention)": [72.7],
    "AVSDN": [75.4, 72.6],
    "CMAN": [73.3],
    "DAM": [74.5],
    "RFJC": [76.2],
    "AVT": [76.8],
    "PSP": [77.8],
    "CMRAN": [78.3, 77.4],
    "MM-Pyramid": [77.8],
    "CMBS": [79.7, 79.3],
    "MBT, fully fine-tuned": [77.8],
}
MILLIONS = {  # trained, in all
    "AVEL": (None, 136.0),
    "AVSDN": (8.0, 140.3),
    "RFJC": (27.8, 238.5),
    "AVT": (15.8, 231.5),
    "PSP": (1.7, 217.4),
    "CMRAN": (15.9, 148.2),
    "MM-Pyramid": (44.0, 176.3),
    "CMBS": (14.4, 216.7),
    "MBT, fully fine-tuned": (172.0, 172.0),
}


def test_the_rows_of_other_methods_are_those_of_the_papers() -> None:
    text = (importlib.resources.files("avcore_ave") / "published.yaml").read_text(encoding="utf-8")
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in parse_yaml(text, "published.yaml")["published"]:
        if not row["source"].startswith("computed"):
            found.setdefault((row["task"], row["metric"]), {}).setdefault(row["method"], []).append(row["value"])
    assert found["ave", "accuracy"] == ACCURACIES
    assert found["ave-weak", "accuracy"] == {"CMBS": [74.2], "PSP": [73.5]}
    assert found["ave", "total_M"] == {method: [total] for method, (_, total) in MILLIONS.items()}
    assert found["ave", "trainable_M"] == {method: [own] for method, (own, _) in MILLIONS.items() if own is not None}
