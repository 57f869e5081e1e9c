"""What the light module declares, and that it is light."""

import importlib.resources
import subprocess
import sys
from types import SimpleNamespace

import pytest

import avcore_avqa
from avcore.config.recipes import parse_yaml
from avcore.tasks import Head, Task
from avcore_avqa.metrics import GROUPS, NAMES


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, avcore_avqa; [list(f()) for f in (avcore_avqa.avcore_heads, avcore_avqa.avcore_tasks, "
        "avcore_avqa.avcore_datasets)]; print(sorted({'torch', 'numpy', 'PIL', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_declared_can_be_loaded_and_made() -> None:
    heads, (task,), (dataset,) = avcore_avqa.avcore_heads(), avcore_avqa.avcore_tasks(), avcore_avqa.avcore_datasets()
    assert [head.name for head in heads] == ["avqa.avst", "avqa.grounding"]
    for head in heads:
        assert issubclass(head.load(), Head)
        assert head.takes(task)
    assert isinstance(task.load()(task.config()), Task)
    assert callable(dataset.load())
    assert dataset.tasks == (task.name,)
    assert dataset.marks[:2] == ("json/avqa-train.json", "json_update/avqa-train.json")
    assert dataset.config().segments == 10
    assert (dataset.config().clip_seconds, dataset.config().window_seconds) == (60, 1.95)


def test_published_numbers_have_sources_and_known_names() -> None:
    text = (importlib.resources.files("avcore_avqa") / "published.yaml").read_text(encoding="utf-8")
    rows = parse_yaml(text, "published.yaml")["published"]
    known = {"accuracy", *GROUPS, *NAMES}
    assert {row["metric"] for row in rows if row["method"] == "AVST"} == known
    for row in rows:
        assert (row["task"], row["dataset"], row["split"]) == ("avqa", "music-avqa", "test")
        assert row["metric"] in known
        assert row["source"]
        assert 0 < row["value"] < 100
    # Weighed by the questions of each type, the types give the sums: all are micro-averages.
    asked = dict(zip(NAMES, (1022, 601, 1199, 1228, 995, 1274, 927, 1115, 824), strict=True))
    values = {row["metric"]: row["value"] for row in rows if row["method"] == "AVST"}
    for name, places in {**GROUPS, "accuracy": range(9)}.items():
        names = [NAMES[place] for place in places]
        micro = sum(asked[one] * values[one] for one in names) / sum(asked[one] for one in names)
        assert abs(micro - values[name]) < 0.02


def test_a_run_that_ends_at_the_prior_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def finish(task: str = "avqa", status: str = "finished", **scores: float) -> str:
        caplog.clear()
        results = SimpleNamespace(metrics={"test": scores})
        avcore_avqa.avcore_run_finished(SimpleNamespace(config=SimpleNamespace(task=task), results=results), status)
        return caplog.text

    assert "On test 36.50 % of the answers are right, and 36.50 % by the wording" in finish(accuracy=36.5, prior=36.5)
    assert not finish(accuracy=36.6, prior=36.5)
    assert not finish(accuracy=30.0)
    assert not finish(accuracy=30.0, prior=36.5, task="ave")
    assert not finish(accuracy=30.0, prior=36.5, status="failed")
