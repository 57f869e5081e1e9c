import json
import os
import shutil

import pytest
import torch

from avcore.engine.checkpoint import CheckpointStore, Reached, Snapshot, restore_optimizer
from avcore.errors import AVCoreError
from avcore.states import trainable_state


@pytest.fixture
def trained(toys):
    model = toys.Model()
    trainer = toys.trainer(model)
    list(toys.steps(trainer, toys.Loader(), epoch=0, first_step=0))
    return model, trainer.optimizer


@pytest.fixture
def store(tmp_path, trained):
    store = CheckpointStore(tmp_path / "checkpoints")
    model, optimizer = trained

    def save(step, *, best=None, **progress):
        done = Reached(epoch=step // 10, step=step, best_step=best, **progress)
        return store.save(
            Snapshot(optimizer, trainable_state(model)), done, frozen_digest="abc", versions={"avcore": "1"}
        )

    store.put = save
    return store


def names(store):
    return sorted(path.name for path in store.directory.iterdir())


def test_a_checkpoint_comes_back_as_it_was_saved(store, trained):
    store.put(10, best=10, score=0.5, scores={"accuracy": 0.5})
    found = store.open("best")
    assert found.path.name == "step-00000010"
    assert found.progress == Reached(epoch=1, step=10, score=0.5, best_step=10, scores={"accuracy": 0.5})
    assert (found.frozen_digest, found.versions) == ("abc", {"avcore": "1"})
    saved, expected = found.model_state(), trainable_state(trained[0])
    assert list(saved) == sorted(expected)
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


def test_only_trained_tensors_are_on_disk_and_no_pickle(store):
    path = store.put(10, best=10)
    assert sorted(p.name for p in path.iterdir()) == [
        "model.safetensors", "optimizer.json", "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    assert not any(name.startswith("frozen") for name in store.open().model_state())


def test_best_and_latest_are_kept_and_nothing_else(store):
    store.put(10, best=10)
    store.put(20, best=10)
    store.put(30, best=10)
    assert names(store) == ["step-00000010", "step-00000030"]
    assert store.open("best").progress.step == 10
    assert store.open("latest").progress.step == 30
    store.put(40, best=40)
    assert names(store) == ["step-00000040"]


def test_before_the_first_evaluation_only_the_latest_is_kept(store):
    store.put(10)
    store.put(20)
    assert names(store) == ["step-00000020"]
    with pytest.raises(AVCoreError, match=r"no best checkpoint yet.*--checkpoint latest"):
        store.open("best")


def test_leftovers_of_a_killed_save_are_cleaned_when_a_run_goes_on(store):
    store.put(10, best=10)
    (store.directory / ".tmp-step-00000020-1").mkdir()
    found, damaged = store.resume()
    assert (found.progress.step, damaged) == (10, [])
    assert names(store) == ["step-00000010"]


def test_nothing_to_go_on_from_is_no_error_but_damage_is(store):
    assert store.resume() == (None, [])
    damage_alter(store.put(10, best=10))
    with pytest.raises(AVCoreError, match=r"no complete checkpoint.*step-00000010 is damaged"):
        store.resume()


def test_what_is_wrong_with_a_later_checkpoint_is_said(store):
    store.put(10, best=10)
    damage_truncate(store.put(20, best=10))
    found, damaged = store.resume()
    assert found.progress.step == 10
    assert len(damaged) == 1
    assert "step-00000020 is damaged" in damaged[0]


@pytest.mark.parametrize("moment", range(3))
def test_a_step_is_saved_again_without_a_moment_that_loses_it(store, monkeypatch, moment):
    """Saved before its evaluation and after it; killed before, between and after the two renames."""
    store.put(10, position=1)
    real, calls = os.replace, []

    def replace(*paths):
        if os.path.isdir(paths[0]):
            if len(calls) == moment:
                raise KeyboardInterrupt
            calls.append(paths)
        real(*paths)

    monkeypatch.setattr("avcore.engine.checkpoint.os.replace", replace)
    if moment < 2:
        with pytest.raises(KeyboardInterrupt):
            store.put(10, best=10)
        assert store.open("latest").progress == Reached(epoch=1, step=10, position=1)
        calls.extend([None] * 9)
    store.put(10, best=10)
    assert store.open("best").progress == Reached(epoch=1, step=10, best_step=10)
    assert names(store) == ["step-00000010"]


def damage_truncate(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def damage_alter(path):
    file = path / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def damage_remove(path):
    (path / "optimizer.json").unlink()


def damage_state(path):
    (path / "state.json").unlink()


def damage_no_record(path):
    (path / "state.json").write_text("[]")


def damage_keys(path):
    (path / "state.json").write_text('{"format": 2}')


def damage_types(path):
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "files": {"model.safetensors": 3}}))


DAMAGE = (
    *(damage_truncate, damage_alter, damage_remove, damage_state),
    *(damage_no_record, damage_keys, damage_types),
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_not_the_latest_and_not_loaded_as_best(store, damage):
    store.put(10, best=10)
    older = store.open("latest")
    damaged = store.put(20, best=10)
    damage(damaged)
    assert store.open("latest").path == older.path
    store.put(30, best=10)
    damage(store.directory / "step-00000010")
    assert store.open("latest").progress.step == 30
    with pytest.raises(AVCoreError, match=r"step-00000010.*--checkpoint latest"):
        store.open("best")


def test_an_interrupted_save_leaves_the_old_one(store, monkeypatch):
    store.put(10, best=10)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avcore.engine.checkpoint.os.replace", fail)
    with pytest.raises(AVCoreError, match=r"step-00000020.*No space left on device"):
        store.put(20, best=20)
    assert names(store) == ["step-00000010"]
    assert store.open("best").progress.step == 10


def test_the_optimiser_goes_on_bit_by_bit(toys, store, trained):
    model, optimizer = trained
    path = store.put(10, best=10)
    other = toys.Model()
    other.load_state_dict(model.state_dict())
    continued = toys.trainer(other)
    restore_optimizer(continued.optimizer, path)
    straight = toys.trainer(model)
    straight.optimizer = optimizer
    for trainer in (continued, straight):
        list(toys.steps(trainer, toys.Loader(), epoch=1, first_step=3))
    assert all(torch.equal(other.state_dict()[name], value) for name, value in model.state_dict().items())


def test_an_optimiser_of_other_parameters_is_refused(toys, store):
    path = store.put(10, best=10)
    saved = json.loads((path / "optimizer.json").read_text())
    saved["names"].append("part.extra")
    (path / "optimizer.json").write_text(json.dumps(saved))
    with pytest.raises(AVCoreError, match=r"part\.extra"):
        restore_optimizer(toys.trainer(toys.Model()).optimizer, path)


def test_nothing_saved_yet_is_said(store):
    with pytest.raises(AVCoreError, match="no complete checkpoint"):
        store.open("best")
    with pytest.raises(AVCoreError, match="no complete checkpoint"):
        store.open("latest")
    with pytest.raises(AVCoreError, match="best or latest"):
        store.open("newest")


def test_a_store_can_be_copied_elsewhere(store, tmp_path):
    store.put(10, best=10)
    shutil.copytree(store.directory, tmp_path / "elsewhere")
    assert CheckpointStore(tmp_path / "elsewhere").open("best").progress.step == 10
