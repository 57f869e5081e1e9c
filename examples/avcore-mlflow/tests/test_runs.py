"""What MLflow's own client finds after real runs equals what the runs wrote themselves."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow.entities import Run as Entry
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import avcore
from avcore_avs.task import AVSTask

Start = Callable[..., avcore.Run]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No run is left open, and nothing of what MLflow remembers of the test before."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    mlflow.set_tracking_uri(None)
    yield
    assert mlflow.active_run() is None


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """A store of plain files, which opens faster than a database, and an experiment, named as MLflow wants it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mixes")
    return mlflow.MlflowClient()


def entries(client: mlflow.MlflowClient, experiment: str = "mixes") -> list[Entry]:
    """All runs of an experiment, the oldest first."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))


def curve(client: mlflow.MlflowClient, entry: Entry, key: str) -> dict[int, float]:
    return {point.step: point.value for point in client.get_metric_history(entry.info.run_id, key)}


def test_a_run_is_written_down(start: Start, tmp_path: Path) -> None:
    """Without any variable: into a database in the working directory."""
    run = start("train.evaluate=[test, test_swapped]", baseline=True)
    assert (tmp_path / "mlflow.db").is_file()
    store = mlflow.MlflowClient()
    whole, baseline = entries(store, "Default")
    results = json.loads((run.directory / "results.json").read_text())
    metrics = whole.data.metrics

    for split, scores in results["metrics"].items():
        for name, value in scores.items():
            assert metrics[f"best/{split}/{name}"] == value
    assert {key.split("/")[1] for key in metrics if key.startswith("best/")} == {"val", "test", "test_swapped"}
    selected = curve(store, whole, "val/M_J")
    best = max(selected, key=lambda step: selected[step])
    assert curve(store, whole, "test/M_J") == {best: results["metrics"]["test"]["M_J"]}
    assert list(selected) == [2, 4]
    assert results["metrics"]["val"]["M_J"] == selected[best]

    for name in ("total", "trainable", "frozen"):
        assert metrics[f"parameters/{name}"] == results["params"][name]
    assert metrics["parameters/head"] == results["params"]["parts"]["head"]["parameters"]

    drawn = EventAccumulator(str(run.directory)).Reload()
    for name in ("loss", "lr/head", "gradient_norm", "epoch"):
        expected = {point.step: point.value for point in drawn.Scalars(f"train/{name}")}
        assert list(expected) == [0, 2]
        # TensorBoard keeps 32 bits.
        assert curve(store, whole, f"train/{name.replace('/', '.')}") == pytest.approx(expected, rel=1e-6)
    assert any(key.startswith("train/loss.") for key in metrics)

    settings = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert whole.data.params["train.batch_size"] == "2"
    assert whole.data.params["prompts"] == '["segment_embedding"]'
    assert whole.data.params["optim.lr"] == str(settings["optim"]["lr"])
    assert whole.data.params["recipe"] == "null"
    assert whole.data.params["visual.backbone"] == "demo_vit"

    assert whole.info.status == "FINISHED"
    assert whole.info.run_name == "run"
    assert whole.data.tags["avcore.directory"] == str(run.directory.resolve())
    assert Path(whole.data.tags["avcore.checkpoint"]).parent == run.directory / "checkpoints"
    assert Path(whole.data.tags["avcore.checkpoint"]).is_dir()

    copied = Path(mlflow.artifacts.download_artifacts(run_id=whole.info.run_id, dst_path=str(tmp_path / "copied")))
    for file in ("config.yaml", "results.json"):
        assert (copied / file).read_bytes() == (run.directory / file).read_bytes()
    pictures = sorted(path.name for path in (run.directory / "pictures").iterdir())
    assert pictures
    assert sorted(path.name for path in (copied / "pictures").iterdir()) == pictures

    assert baseline.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert baseline.data.metrics["best/test/M_J"] == results["baseline"]["test"]["M_J"]
    assert baseline.data.params["prompts"] == "[]"


def test_a_child_of_somebodys_own_run_goes_on_when_it_is_resumed(
    start: Start, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    with mlflow.start_run() as own:
        start(epochs=1)
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == own.info.run_id
    first = entries(store)[1]
    assert first.data.tags["mlflow.parentRunId"] == own.info.run_id
    assert (first.info.status, list(curve(store, first, "val/M_J"))) == ("FINISHED", [2])
    avcore.run(resume=tmp_path / "run", epochs=2, quiet=True)
    _, second = entries(store)
    assert second.info.run_id == first.info.run_id
    assert (second.info.status, list(curve(store, second, "val/M_J"))) == ("FINISHED", [2, 4])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert second.data.metrics["best/val/M_J"] == results["metrics"]["val"]["M_J"]


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt, "KILLED"), (RuntimeError, "FAILED")])
def test_a_run_that_stops_says_how(
    raised: type[BaseException],
    status: str,
    start: Start,
    store: mlflow.MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*args: Any) -> None:
        raise raised

    monkeypatch.setattr(AVSTask, "metrics", stop)
    with pytest.raises(raised):
        start(epochs=1)
    (entry,) = entries(store)
    assert entry.info.status == status
    assert not any(key.startswith("best/") for key in entry.data.metrics)


def test_training_goes_on_when_the_store_cannot_be_written(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file").as_uri())
    run = start(epochs=1)
    (said,) = [one for one in caplog.messages if "hook" in one]
    assert "avcore-mlflow: its hook avcore_run_started failed" in said
    assert run.results.status == "finished"
