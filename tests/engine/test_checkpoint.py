import json
import shutil

import pytest
import torch

from avcore.engine.checkpoint import CheckpointStore, Progress, restore_optimizer
from avcore.errors import AVCoreError


@pytest.fixture
def trained(toys):
    model = toys.Model()
    trainer = toys.trainer(model)
    list(trainer.epoch(toys.Loader(), epoch=0, first_step=0))
    return model, trainer.optimizer


@pytest.fixture
def store(tmp_path, trained):
    store = CheckpointStore(tmp_path / "checkpoints")
    model, optimizer = trained

    def save(step, *, is_best, **progress):
        done = Progress(epoch=step // 10, step=step, **progress)
        return store.save(
            model.trainable_state(), optimizer, done, frozen_digest="abc", versions={"avcore": "1"}, is_best=is_best
        )

    store.put = save
    return store


def names(store):
    return sorted(path.name for path in store.directory.iterdir())


def test_a_checkpoint_comes_back_as_it_was_saved(store, trained):
    store.put(10, is_best=True, score=0.5, best=0.5, scores={"accuracy": 0.5})
    found = store.open("best")
    assert found.path.name == "step-00000010"
    assert found.progress == Progress(epoch=1, step=10, score=0.5, best=0.5, scores={"accuracy": 0.5})
    assert (found.frozen_digest, found.versions) == ("abc", {"avcore": "1"})
    saved, expected = found.model_state(), trained[0].trainable_state()
    assert list(saved) == sorted(expected)
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


def test_only_trained_tensors_are_on_disk_and_no_pickle(store):
    path = store.put(10, is_best=True)
    assert sorted(p.name for p in path.iterdir()) == [
        "model.safetensors", "optimizer.json", "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    assert not any(name.startswith("frozen") for name in store.open().model_state())


def test_best_and_latest_are_kept_and_nothing_else(store):
    store.put(10, is_best=True)
    store.put(20, is_best=False)
    store.put(30, is_best=False)
    assert names(store) == ["best.json", "step-00000010", "step-00000030"]
    assert store.open("best").progress.step == 10
    assert store.open("latest").progress.step == 30
    store.put(40, is_best=True)
    assert names(store) == ["best.json", "step-00000040"]


def test_leftovers_of_a_killed_save_are_cleaned(store):
    (store.directory / ".tmp-step-00000005-1").mkdir(parents=True)
    store.put(10, is_best=True)
    assert names(store) == ["best.json", "step-00000010"]


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


@pytest.mark.parametrize("damage", [damage_truncate, damage_alter, damage_remove, damage_state])
def test_a_damaged_checkpoint_is_not_the_latest_and_not_loaded_as_best(store, damage):
    store.put(10, is_best=True)
    older = store.open("latest")
    damaged = store.put(20, is_best=False)
    damage(damaged)
    assert store.open("latest").path == older.path
    store.put(30, is_best=True)
    damage(store.directory / "step-00000030")
    with pytest.raises(AVCoreError, match=r"step-00000030.*--checkpoint latest"):
        store.open("best")


def test_an_interrupted_save_leaves_the_old_one(store, monkeypatch):
    store.put(10, is_best=True)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avcore.engine.checkpoint.os.replace", fail)
    with pytest.raises(AVCoreError, match=r"step-00000020.*No space left on device"):
        store.put(20, is_best=True)
    assert names(store) == ["best.json", "step-00000010"]
    assert store.open("best").progress.step == 10


def test_the_optimiser_goes_on_bit_by_bit(toys, store, trained):
    model, optimizer = trained
    path = store.put(10, is_best=True)
    other = toys.Model()
    other.load_state_dict(model.state_dict())
    continued = toys.trainer(other)
    restore_optimizer(continued.optimizer, path)
    straight = toys.trainer(model)
    straight.optimizer = optimizer
    for trainer in (continued, straight):
        list(trainer.epoch(toys.Loader(), epoch=1, first_step=3))
    assert all(torch.equal(other.state_dict()[name], value) for name, value in model.state_dict().items())


def test_an_optimiser_of_other_parameters_is_refused(toys, store):
    path = store.put(10, is_best=True)
    saved = json.loads((path / "optimizer.json").read_text())
    saved["names"].append("part.extra")
    (path / "optimizer.json").write_text(json.dumps(saved))
    with pytest.raises(AVCoreError, match=r"part\.extra"):
        restore_optimizer(toys.trainer(toys.Model()).optimizer, path)


def test_nothing_saved_yet_is_said(store):
    with pytest.raises(AVCoreError, match="no best checkpoint"):
        store.open("best")
    with pytest.raises(AVCoreError, match="no complete checkpoint"):
        store.open("latest")
    with pytest.raises(AVCoreError, match="best or latest"):
        store.open("newest")


def test_a_store_can_be_copied_elsewhere(store, tmp_path):
    store.put(10, is_best=True)
    shutil.copytree(store.directory, tmp_path / "elsewhere")
    assert CheckpointStore(tmp_path / "elsewhere").open("best").progress.step == 10
