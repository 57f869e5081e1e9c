"""Coming back to a run."""

import shutil
from pathlib import Path

import pytest
import torch

import avcore
from avcore.engine.checkpoint import read_checkpoint
from avcore.errors import AVCoreError
from avcore.states import trainable_state


def test_a_loaded_run_is_the_one_that_was_trained(finished):
    run = avcore.load_run(finished.directory)
    assert run.results == finished.results
    assert run.config == finished.run.config
    assert not run.model.training
    for name, value in trainable_state(finished.run.model).items():
        assert torch.equal(value, trainable_state(run.model)[name])
    for split in ("val", "test"):
        assert run.evaluate(split) == finished.results.metrics[split]


def test_best_by_default_latest_on_request(finished):
    store = finished.directory / "checkpoints"
    latest = max(path.name for path in store.glob("step-*"))
    best = f"step-{read_checkpoint(store / latest).progress.best_step:08d}"
    states = {which: avcore.load_run(finished.directory, checkpoint=which).model for which in ("best", "latest")}
    for which, name in (("best", best), ("latest", latest)):
        saved = read_checkpoint(store / name).model_state()
        assert all(torch.equal(saved[k], v) for k, v in trainable_state(states[which]).items())


def test_evaluating_other_files_of_the_task(finished, world, tmp_path):
    run = avcore.load_run(finished.directory, data=world.render("listen", tmp_path, seed=9))
    assert run.config.data.dataset == "toy-files"
    assert run.evaluate("test")["clips"] == 6


def test_a_run_can_be_moved_and_loaded_without_its_data(start, world, tmp_path):
    root = world.render("listen", tmp_path, seed=3)
    run = start(data=root, epochs=1)
    shutil.rmtree(root)
    moved = shutil.move(run.directory, tmp_path / "moved")
    loaded = avcore.load_run(moved)
    assert loaded.model is not None
    with pytest.raises(AVCoreError, match="toy-world-3"):
        loaded.evaluate("test")


def test_evaluation_says_what_it_cannot_do(finished):
    with pytest.raises(AVCoreError, match="no split 'tst'"):
        finished.run.evaluate("tst")


def test_other_frozen_weights_are_refused(finished, tmp_path):
    copy = shutil.copytree(finished.directory, tmp_path / "copy")
    file = copy / "config.yaml"
    file.write_text(file.read_text().replace("backbone: toy\n  seed: 7", "backbone: toy\n  seed: 8"))
    with pytest.raises(AVCoreError, match="other frozen weights"):
        avcore.load_run(copy)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_run_is_named(world, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AVCoreError, match=name):
        avcore.load_run(tmp_path / name)


def test_predict_hands_on_to_the_report(finished, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "avcore.report.predict.predict_video", lambda *args, **rest: seen.update(args=args, rest=rest) or ["done"]
    )
    assert finished.run.predict("cat.mp4", name="cat") == "done"
    assert seen["args"] == (finished.run.model, finished.run.config, "cat.mp4", finished.directory / "predictions")
    assert seen["rest"] == {"name": "cat", "overwrite": False, "inputs": [{}]}
    finished.run.predict("cat.mp4", Path("elsewhere"), overwrite=True)
    assert seen["args"][3] == Path("elsewhere")
    given = [{"question": "one"}, {"question": "two"}]
    assert finished.run.predict("cat.mp4", inputs=given[0]) == "done"
    assert seen["rest"]["inputs"] == given[:1]
    assert finished.run.predict("cat.mp4", inputs=given[:1]) == ["done"]
    assert finished.run.predict("cat.mp4", inputs=given) == ["done"]
    assert seen["rest"]["inputs"] == given


@pytest.fixture
def untouched(monkeypatch):
    """No model may be made."""
    monkeypatch.setattr("avcore.runs.base.build_model", lambda *_: pytest.fail("weights were loaded"))


def test_files_that_need_other_settings_are_refused_before_predicting(start, world, tmp_path, request):
    run = start(set=["data.window_seconds=0.5", "data.workers=1"], epochs=0)
    root = world.render("listen", tmp_path, seed=9)
    request.getfixturevalue("untouched")
    with pytest.raises(AVCoreError) as caught:
        avcore.load_run(run.directory, data=root)
    for text in (
        "trained on 'toy-demo' with data.window_seconds=0.5;",
        f"{root} are read by 'toy-files' with data.window_seconds=1.0,",
        f"avcore run --plugin rowing --task listen --data {root}",
    ):
        assert text in str(caught.value)


def test_a_wrong_folder_shows_before_the_weights_are_loaded(finished, tmp_path, untouched):
    (tmp_path / "other").mkdir()
    with pytest.raises(AVCoreError, match="has no folder 'train'"):
        avcore.load_run(finished.directory, data=tmp_path / "other")
