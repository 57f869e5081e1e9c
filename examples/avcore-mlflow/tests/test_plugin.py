"""The light module, and what settings look like."""

import subprocess
import sys

from avcore_mlflow.tracking import flattened


def test_mlflow_is_not_imported_before_a_run_starts() -> None:
    code = "import sys, avcore.registry as r; r.load_registry(); import avcore_mlflow; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_settings_have_the_names_that_set_takes() -> None:
    tree = {"task": "avs", "train": {"epochs": 3, "evaluate": ["test"]}, "parts": {"a": {"b": {"c": None}}}}
    assert dict(flattened(tree)) == {
        "task": "avs",
        "train.epochs": "3",
        "train.evaluate": '["test"]',
        "parts.a.b.c": "null",
    }
