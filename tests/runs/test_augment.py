"""Runs with ``train.augment``: it acts in training alone, and alike however clips are loaded and runs are stopped."""

import pytest

import avcore
from avcore.data.augment import Augmentation
from avcore.errors import AVCoreError, ConfigError
from avcore.runs import load_run

AUGMENT = [
    "train.augment.visual=[{name: RandAugment, num_ops: 2}, {name: RandomResizedCrop}, {name: ColorJitter, hue: 0.2}]",
    "train.augment.audio=[{name: FrequencyMasking, freq_mask_param: 3}, {name: TimeMasking, time_mask_param: 30}]",
    "train.augment.mix.p=0.6",
]


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory, end_of):
    """A run that nobody stops: its end, its steps and its directory."""
    world.STEPS.clear()
    out = tmp_path_factory.mktemp("augmented") / "straight"
    avcore.run("rowing", task="listen", epochs=3, set=AUGMENT, out=out, quiet=True)
    return end_of(out), list(world.STEPS), out


def test_it_changes_what_is_learnt_and_is_written_down(start, straight, end_of, tmp_path):
    end, steps, out = straight
    start(epochs=3)
    assert end_of(tmp_path / "run")["latest"] != end["latest"]
    assert len({step["loss"] for step in steps}) == len(steps)
    recorded = load_run(out).config.train.augment
    assert [entry["name"] for entry in recorded.visual] == ["RandAugment", "RandomResizedCrop", "ColorJitter"]
    assert (recorded.mix.p, recorded.mix.alpha) == (0.6, 10.0)
    assert recorded.audio[1] == {"name": "TimeMasking", "time_mask_param": 30}
    again = avcore.run(config=out / "config.yaml", out=tmp_path / "again", quiet=True)
    assert end_of(again.directory) == end


def test_workers_make_no_difference(start, straight, end_of, tmp_path):
    start(epochs=3, set=[*AUGMENT, "data.workers=2"])
    assert end_of(tmp_path / "run") == straight[0]


@pytest.mark.parametrize("at", [4, 5])
def test_a_stopped_run_comes_to_the_same_end(start, world, straight, end_of, tmp_path, at):
    world.INTERRUPT_AT[:] = [at]
    with pytest.raises(KeyboardInterrupt):
        start(epochs=3, set=AUGMENT)
    world.INTERRUPT_AT.clear()
    avcore.run(resume=tmp_path / "run", quiet=True)
    assert end_of(tmp_path / "run") == straight[0]


def test_mixed_sounds_alone_change_what_is_learnt(start, end_of, tmp_path):
    start(epochs=1)
    mixed = tmp_path / "mixed"
    avcore.run("rowing", task="listen", epochs=1, set=["train.augment.mix={p: 1, alpha: 4.0}"], out=mixed, quiet=True)
    assert end_of(mixed)["latest"] != end_of(tmp_path / "run")["latest"]


def test_evaluation_is_untouched(straight):
    """The scores of the finished run are those of its weights on pictures and sound as they are."""
    run = load_run(straight[2])
    model = run.model
    batch = next(iter(run.data.loader("test")))
    before = model(batch)["logits"]
    with Augmentation(model)(batch, 0) as made:
        assert not before.equal(model(made)["logits"])
        # Behind the front end, whoever calls it.
        plain = model.plain("audio", made).pooled
    assert not plain.equal(model.plain("audio", batch).pooled)
    assert before.equal(model(batch)["logits"])
    assert run.evaluate("test") == run.results.metrics["test"]


def test_a_list_that_cannot_be_is_refused_before_anything_is_written(start, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.augment\.visual\[0\]\.p"):
        start(set=["train.augment.visual=[{name: RandomHorizontalFlip, p: 3}]"])
    with pytest.raises(AVCoreError, match=r"train\.augment\.visual makes pictures \(3, 4, 4\) of \(3, 8, 8\)"):
        start(set=["train.augment.visual=[{name: RandomCrop, size: 4}]"])
    with pytest.raises(ConfigError, match=r"train\.augment\.mix\.p must be from 0 to 1, not 3"):
        start(set=["train.augment.mix.p=3"])
    assert not (tmp_path / "run" / "config.yaml").exists()
