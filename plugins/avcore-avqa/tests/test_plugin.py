"""What the light module declares, and that it is light."""

import subprocess
import sys

import avcore_avqa
from avcore.tasks import Head, Task


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, avcore_avqa; [list(f()) for f in (avcore_avqa.avcore_heads, avcore_avqa.avcore_tasks, "
        "avcore_avqa.avcore_datasets)]; print(sorted({'torch', 'numpy', 'PIL', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_declared_can_be_loaded_and_made() -> None:
    (head,), (task,), (dataset,) = avcore_avqa.avcore_heads(), avcore_avqa.avcore_tasks(), avcore_avqa.avcore_datasets()
    assert issubclass(head.load(), Head)
    assert head.takes(task)
    assert isinstance(task.load()(task.config()), Task)
    assert callable(dataset.load())
    assert dataset.tasks == (task.name,)
    assert dataset.marks[:2] == ("json/avqa-train.json", "json_update/avqa-train.json")
    assert dataset.config().segments == 10
    assert (dataset.config().clip_seconds, dataset.config().window_seconds) == (60, 1.95)
