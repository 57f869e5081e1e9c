"""One run: what it leaves behind, what it says, how it ends."""

import json
import multiprocessing
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_results import result

import avcore
from avcore.engine.checkpoint import CheckpointStore
from avcore.engine.clips import read_clips
from avcore.engine.listeners import Listeners
from avcore.engine.result import RunResult, mean_over_seeds
from avcore.engine.step import NonFiniteError
from avcore.errors import AVCoreError
from avcore.runs.summary import describe_results, describe_seeds
from avcore.states import trainable_state

# The promised keys of results.json; below them what this library adds.
KEYS = [
    "task", "dataset", "protocol", "method", "prompts", "fusions", "visual", "audio", "seed", "metrics", "params",
    "seconds", "peak_bytes", "versions", "commit", "status",
]  # fmt: skip
MORE = [
    "format", "text", "text_audio", "selected_on", "score_name", "baseline", "broken", "skipped_steps", "plugins",
    "threads", "seeds", "metrics_sd", "shapley", "shapley_sd", "trivial", "frozen", "without_truth", "notes", "clips",
    "recipe", "streams",
]  # fmt: skip
WRONG = ("test_swapped", "test_mute_audio", "test_mute_visual", "test_mute_both", "test_noise", "test_noise-30")
SPLITS = {"train": 12, "val": 6, "test": 6}


def results_of(path: Path) -> dict:
    return json.loads((path / "results.json").read_text())


def test_a_run_directory_holds_everything(finished):
    run = finished.run
    names = {path.name for path in run.directory.iterdir()}
    assert {"config.yaml", "results.json", "log.txt", "checkpoints", "pictures"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert len(list((run.directory / "pictures").glob("test-*.png"))) == 6
    results = results_of(run.directory)
    assert len(read_clips(run.directory, "test", results["score_name"])) == results["clips"]["test"]
    assert set(results) == {*KEYS, *MORE}
    assert RunResult.from_json(results, "it") == run.results
    assert (results["task"], results["dataset"], results["method"]) == ("listen", "toy-demo", "rowing")
    assert (results["protocol"], results["selected_on"], results["status"]) == ("clean", "val", "finished")
    assert (results["prompts"], results["fusions"]) == (["rows"], [])
    assert (results["visual"], results["audio"], results["seed"]) == ("toy", None, 0)
    assert set(results["metrics"]) == {"val", "test", "test_swapped"}
    assert results["metrics"]["test"]["clips"] == 6
    assert results["seconds"] > 0
    assert results["peak_bytes"] > 50e6
    assert results["versions"]["torch"] == torch.__version__


def test_parameters_are_itemised(finished):
    params = finished.results.params
    assert params["parts"]["rows"] == {"tensors": 4, "parameters": 64, "trainable": 64}
    assert params["parts"]["head"]["trainable"] == 34
    assert params["trainable"] == 98
    assert params["total"] == params["frozen"] + 98


def test_a_list_of_pairs_trains_and_is_read_back(start):
    run = start(set=["plan.pairing=[[0,1]]"])
    assert [(entry.visual, entry.audio) for entry in run.model.plan if entry.paired] == [(0, 1)]
    assert run.results.status == "finished"
    assert avcore.load_run(run.directory).model.plan == run.model.plan


def test_the_saved_configuration_repeats_the_run_bit_by_bit(start, tmp_path):
    first = start(set=["parts.rows.length=3", "optim.accumulate=2"], seed=4)
    torch.rand(5)
    again = start(None, task=None, config=first.directory / "config.yaml", out=tmp_path / "again")
    assert (again.directory / "config.yaml").read_text() == (first.directory / "config.yaml").read_text()
    assert again.results.metrics == first.results.metrics
    states = [CheckpointStore(run.directory / "checkpoints").open("latest").model_state() for run in (first, again)]
    assert states[0]["rows.visual.layers.0.rows"].shape == (3, 8)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_another_seed_draws_otherwise(start, tmp_path):
    one, other = start(epochs=1), start(epochs=1, seed=1, out=tmp_path / "other")
    states = [CheckpointStore(run.directory / "checkpoints").open("latest").model_state() for run in (one, other)]
    assert not torch.equal(states[0]["head.map.weight"], states[1]["head.map.weight"])


def test_training_learns_and_listens(start):
    run = start(epochs=12, set=["train.eval_every=12", f"train.evaluate=[test, {', '.join(WRONG)}]"])
    metrics = run.results.metrics
    assert metrics["test"]["accuracy"] == 100
    assert metrics["test_swapped"]["accuracy"] == 0
    assert metrics["test_mute_audio"]["accuracy"] == 50
    assert metrics["test_mute_visual"]["accuracy"] == 100
    assert metrics["test_mute_both"]["accuracy"] == 50
    assert metrics["test_noise"]["accuracy"] <= 100


def test_where_only_the_sound_matters_it_brings_everything(start, capsys):
    run = start(epochs=12, shapley=True, quiet=False, set=["train.eval_every=12"])
    assert set(run.results.metrics) == {"val", "test", "test_mute_audio", "test_mute_visual", "test_mute_both"}
    brought = {stream: scores["accuracy"] for stream, scores in run.results.shapley["test"].items()}
    assert brought == {"visual": 0, "audio": 50}  # two classes, so that 50 is nothing
    table = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "test, brought by the pictures 0.00 0.00" in table
    assert "test, brought by the sound 50.00 0.00" in table
    with pytest.raises(AVCoreError, match=r"shapley must be false with streams=audio: it compares two streams"):
        start(streams="audio", shapley=True)


def test_the_best_weights_are_the_ones_evaluated(start):
    run = start(epochs=4)
    store = CheckpointStore(run.directory / "checkpoints")
    best, latest = store.open("best"), store.open("latest")
    assert run.results.metrics["val"] == dict(best.progress.scores)
    assert latest.progress.epoch == 4
    assert latest.progress.best == best.progress.score
    assert all(torch.equal(value, best.model_state()[name]) for name, value in trainable_state(run.model).items())


def test_protocol_paper_selects_on_test_and_says_so(start, capsys):
    run = start(protocol="paper", quiet=False, epochs=1)
    assert run.results.selected_on == "test"
    assert set(run.results.metrics) == {"test"}
    assert "SELECTED ON TEST (protocol=paper)" in capsys.readouterr().out


def test_the_split_that_selects_is_a_setting_and_clean_never_peeks(start):
    run = start(protocol="paper", epochs=1, set=["train.select=val"])
    assert run.results.selected_on == "val"
    assert set(run.results.metrics) == {"val", "test"}
    with pytest.raises(AVCoreError, match=r"train\.select.*val with protocol=clean"):
        start(set=["train.select=test"])


def test_demo_data_are_announced_first_and_last(finished):
    lines = finished.text.strip().splitlines()
    assert lines[0].startswith("DEMO DATA")
    assert lines[-1].startswith("DEMO DATA")


def test_named_data_are_no_demo(start, world, tmp_path, capsys):
    run = start(data=world.render("listen", tmp_path, seed=5), quiet=False, epochs=1)
    assert run.results.dataset == "toy-files"
    assert "DEMO" not in capsys.readouterr().out


def test_the_final_table(finished):
    run, out = finished.run, finished.text
    table = out[out.index("rowing on listen (toy-demo), seed 0") :]
    for label in ("val, own sound", "test, own sound", "test, another clip's sound", "test, own sound, head alone"):
        assert label in table
    assert f"{run.results.metrics['test']['accuracy']:.2f}" in table
    assert "rows" in table
    seconds, both = map(int, re.search(r"(\d+) s, (\d+) s with the head alone, peak memory ", table).groups())
    alone = results_of(run.directory / "baseline")["seconds"]
    assert seconds == round(run.results.seconds)
    assert both >= round(run.results.seconds + alone - 1)
    assert str(run.directory / "pictures") in table


def test_plain_lines_elsewhere_than_on_a_terminal_and_all_of_them_in_the_log(finished):
    assert "epoch 2/2: 3/3  loss " in finished.text
    assert "val: accuracy " in finished.text
    log = "".join((finished.directory / path).read_text() for path in ("log.txt", "baseline/log.txt"))
    assert all(line.strip() in log for line in finished.text.splitlines())


def test_quiet_shows_nothing(start, capsys):
    run = start(epochs=1)
    assert capsys.readouterr().out == ""
    assert "DEMO DATA" in (run.directory / "log.txt").read_text()


def test_tensorboard_has_losses_scores_pictures_and_parameters(finished):
    events = EventAccumulator(str(finished.directory), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "train/loss",
        "train/loss/entropy",
        "train/lr/rows",
        "train/lr/head",
        "val/accuracy",
        "test/accuracy",
    } <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == list(range(6))
    assert [event.step for event in events.Scalars("val/accuracy")] == [3, 6]
    assert {"val/1", "test/1"} <= set(tags["images"])
    assert "parameters/text_summary" in tags["tensors"]


def test_the_head_alone_is_trained_beside_it(finished):
    run = finished.run
    inner = results_of(run.directory / "baseline")
    assert run.results.baseline == inner["metrics"]
    assert (inner["prompts"], inner["method"], inner["status"]) == ([], None, "finished")
    assert inner["params"]["trainable"] == 34
    assert avcore.load_run(run.directory / "baseline").evaluate("test") == inner["metrics"]["test"]


def test_the_head_alone_is_no_baseline_of_itself(start):
    run = start("none", baseline=True, epochs=1)
    assert run.results.baseline is None
    assert not (run.directory / "baseline").exists()


def test_hooks_are_called_in_order(start, world):
    run = start(epochs=1)
    names = [name for name, _ in world.CALLS]
    assert names == [
        "run_started", "model_assembled", *["step_finished"] * 3, "evaluated", "checkpoint_saved", "evaluated",
        "run_finished",
    ]  # fmt: skip
    calls = dict(world.CALLS)
    assert calls["run_started"] == run.directory
    assert calls["run_finished"] == "finished"


def test_scores_come_with_the_step_of_the_weights_that_were_evaluated(start, world):
    run = start(epochs=2)
    best = CheckpointStore(run.directory / "checkpoints").open("best").progress.step
    assert [("val", 3), ("val", 6), ("test", best)] == world.EVALUATED


def test_an_interrupted_run_says_so(start, world, tmp_path):
    world.INTERRUPT_AT.append(4)
    with pytest.raises(KeyboardInterrupt):
        start()
    results = results_of(tmp_path / "run")
    assert results["status"] == "interrupted"
    assert results["seconds"] > 0
    assert world.CALLS[-1] == ("run_finished", "interrupted")
    assert CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").progress.epoch == 1


def test_a_killed_run_is_on_disk_as_interrupted(start, world, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "avcore.runs.execute.Trainer", lambda **rest: seen.append(results_of(tmp_path / "run")) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        start()
    assert seen[0]["status"] == "interrupted"


def test_a_run_that_diverges_fails_with_names(start, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 1 \(epoch 0\).*train"):
        start("none", prompts="exploder")
    assert results_of(tmp_path / "run")["status"] == "failed"
    assert "NonFiniteError" in (tmp_path / "run" / "log.txt").read_text()


def test_a_part_that_changes_frozen_weights_is_caught(start, tmp_path):
    with pytest.raises(AVCoreError, match="frozen weights are not what they were"):
        start("none", prompts="spoiler")
    assert results_of(tmp_path / "run")["status"] == "failed"


def test_a_used_directory_is_refused_and_left_alone(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    with pytest.raises(AVCoreError, match="not empty"):
        start()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": ["train.evaluate=[tset]"]}, "no split 'tset'"),
        ({"set": ["data.root=/nowhere/at/all"]}, "/nowhere/at/all"),
        ({"device": "cuda:77"}, "CUDA"),
    ],
)
def test_mistakes_show_before_anything_is_written(start, tmp_path, options, message):
    with pytest.raises(AVCoreError, match=message):
        start(**options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("streams", "kept", "missing"), [("visual", "test_mute_visual", "audio"), ("audio", "test_noise", "visual")]
)
def test_a_run_without_a_stream_leaves_out_the_splits_that_change_it(start, capsys, streams, kept, missing):
    splits = "[test, test_swapped, test_mute_visual, test_mute_both, test_noise]"
    run = start(streams=streams, quiet=False, epochs=1, set=[f"train.evaluate={splits}"])
    assert {"val", "test", kept} <= set(run.results.metrics)
    assert "test_mute_both" not in run.results.metrics
    assert f"test_mute_both is left out: this run has no {missing} stream." in capsys.readouterr().out
    with pytest.raises(AVCoreError, match=rf"neither pictures nor sound, but this run has no {missing} stream"):
        run.evaluate("test_mute_both")


def test_no_epochs_measure_the_untrained_model(start):
    run = start(epochs=0)
    assert set(run.results.metrics) == {"val", "test"}
    assert avcore.load_run(run.directory).evaluate("test") == run.results.metrics["test"]


def test_bf16_trains_and_keeps_what_is_trained_in_fp32(start):
    run = start(epochs=12, set=["train.eval_every=12", "train.precision=bf16"])
    assert run.results.metrics["test"]["accuracy"] == 100
    assert {value.dtype for value in trainable_state(run.model).values()} == {torch.float32}
    assert run.evaluate("test") == run.results.metrics["test"]
    batch = next(iter(run.data.loader("test")))
    with torch.no_grad():
        predicted = run.model.predict(run.model(batch))["class"]
    assert torch.equal(predicted, batch.targets["class"])


def test_the_callers_random_numbers_are_left_alone(start):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    start(epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_defaults_are_written_resolved(finished):
    tree = yaml.safe_load((finished.directory / "config.yaml").read_text())
    assert tree["parts"] == {"rows": {"streams": "both", "lr_scale": 1.0, "length": 2}}
    assert tree["train"]["epochs"] == 2
    assert tree["data"]["dataset"] == "toy-demo"


@pytest.mark.parametrize(
    ("size", "drop", "steps", "said"),
    [
        (5, True, 2, "train: 2 of 12 clips are left out of each epoch"),
        (5, False, 3, "train: the last batch of each epoch has 2 clips of 5"),
        (20, True, 1, "train: its 12 clips make one batch, smaller than 20"),
        (20, False, 1, "train: its 12 clips make one batch, smaller than 20"),
        (6, True, 2, ""),
    ],
)
def test_what_becomes_of_clips_that_fill_no_batch_is_told(start, world, size, drop, steps, said):
    settings = [f"train.batch_size={size}", "train.sampler=balanced", "train.balance=class", f"train.drop_last={drop}"]
    run = start(epochs=1, set=settings)
    assert len(world.STEPS) == steps
    told = [line for line in (run.directory / "log.txt").read_text().splitlines() if " train: " in f" {line}"]
    assert [said in line for line in told] == ([True] if said else [])


@pytest.mark.parametrize(("first", "told"), [(1, False), (2, True)])
def test_a_run_that_ends_before_the_epochs_of_its_average_says_so(start, first, told):
    run = start(epochs=1, set=["train.average=epochs", f"train.average_epochs=[{first}, 3]"])
    said = "no weights are averaged: train.average_epochs=[2, 3] begins after the last epoch, 1"
    assert (said in (run.directory / "log.txt").read_text()) == told


def test_an_average_is_what_is_evaluated_and_saved(start):
    run = start(epochs=1, set=["train.average=ema", "train.average_decay=0.9"])
    best = CheckpointStore(run.directory / "checkpoints").open("best")
    mean, own = best.model_state(), best.training_state()
    assert mean.keys() == own.keys()
    assert not all(torch.equal(mean[name], own[name]) for name in mean)
    loaded = avcore.load_run(run.directory)
    assert all(torch.equal(mean[name], tensor) for name, tensor in trainable_state(loaded.model).items())
    assert loaded.evaluate("val") == run.results.metrics["val"] == best.progress.scores


def test_events_come_in_the_order_that_is_drawn(start, monkeypatch):
    told = []
    tell = Listeners.tell

    def listen(self, event, *facts):
        told.append(event)
        tell(self, event, *facts)

    monkeypatch.setattr(Listeners, "tell", listen)
    start(epochs=2, set=["train.save_every=2", "train.eval_every=2"])
    step, saved = "step_finished", "checkpoint_saved"
    done, ended = [step, "reached"], [step, "epoch_finished"]
    first = ["epoch_started", *done, *done, saved, *ended, "reached", saved]
    second = ["epoch_started", *done, saved, *done, *ended, "evaluated", "pictured", "reached", saved]
    assert told == ["run_started", *first, *second, "evaluated", "pictured", "run_finished"]


def test_time_without_a_head_alone_is_one_number():
    alone = result(seconds=110.2, peak_bytes=2**20)
    assert "110 s, peak memory 1 MiB" in describe_results(alone, [], [], seconds=111.0)
    both = describe_results(replace(alone, baseline={"test": {}}), [], [], seconds=170.4)
    assert "110 s, 170 s with the head alone, peak memory 1 MiB" in both


def test_what_streams_bring_has_a_deviation_over_seeds():
    brought = {"test": {"visual": {"score": 7.0}, "audio": {"score": 34.0}}}
    one = result(metrics={"test": {"score": 61.0}}, shapley=brought)
    two = replace(one, seed=4, shapley={"test": {**brought["test"], "audio": {"score": 36.0}}})
    rows = [" ".join(line.split()) for line in describe_seeds(mean_over_seeds([one, two]), []).splitlines()]
    assert "test, brought by the pictures 7.00 ± 0.00 (n = 2)" in rows
    assert "test, brought by the sound 35.00 ± 1.41 (n = 2)" in rows


def test_one_epoch_is_not_epochs(start, capsys):
    start(epochs=1, quiet=False)
    out = capsys.readouterr().out
    assert "1 epoch, the best" in out
    assert "1 epochs" not in out


def test_any_rule_of_update_trains_and_is_kept(start):
    run = start(epochs=1, set=["optim.optimizer=sgd"])
    path = CheckpointStore(run.directory / "checkpoints").open("latest").path
    assert "momentum_buffer" in (path / "optimizer.json").read_text()


def test_reading_is_spoken_of_once_and_only_where_something_is_decoded(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AVCORE_CACHE", str(tmp_path / "fresh"))
    start(epochs=1, quiet=False, baseline=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("reading")]
    assert lines == [f"reading {split} ({n} clips) into the clip cache" for split, n in SPLITS.items()]
    start(epochs=1, quiet=False, out=tmp_path / "again")
    assert "into the clip cache" not in capsys.readouterr().out


def test_one_folder_holds_everything_that_can_be_made_again(start, tmp_path, monkeypatch):
    monkeypatch.setenv("AVCORE_CACHE", str(tmp_path / "fresh"))
    assert start(epochs=1).data.root == tmp_path / "fresh" / "toy-world-0"
    assert {path.name for path in (tmp_path / "fresh").iterdir()} == {"toy-world-0", "clips"}


@pytest.mark.parametrize("damage", ["no train folder", "a split is missing"])
def test_a_wrong_folder_shows_before_weights_are_loaded(start, world, tmp_path, monkeypatch, damage):
    monkeypatch.setattr("avcore.runs.execute.build_model", lambda *_: pytest.fail("weights were loaded"))
    root = world.render("listen", tmp_path, seed=5)
    shutil.rmtree(root / ("train" if damage == "no train folder" else "test"))
    monkeypatch.setattr(world.Files, "clips", strict(world.Files.clips))
    with pytest.raises(AVCoreError, match=str(root)):
        start(data=root)
    assert not (tmp_path / "run").exists()


def strict(clips):
    """`Dataset.clips` that refuses a split without clips."""

    def listed(self, split):
        found = clips(self, split)
        if not found:
            raise AVCoreError(f"{self.root} has no clips of split {split}.")
        return found

    return listed


def test_a_demo_run_is_repeated_on_files(start, world, finished, tmp_path):
    root = world.render("listen", tmp_path, seed=5)
    run = start(None, task=None, config=finished.directory / "config.yaml", data=root, epochs=1, baseline=False)
    assert (run.results.dataset, run.data.root) == ("toy-files", root)


def test_no_loader_process_outlives_a_run_or_an_evaluation(start):
    before = set(multiprocessing.active_children())
    run = start(epochs=1, set=["data.workers=1"])
    assert set(multiprocessing.active_children()) == before
    assert run.evaluate("test")["clips"] == 6
    assert set(multiprocessing.active_children()) == before


def test_no_loader_process_outlives_a_failed_run_whose_traceback_is_kept(start):
    before = set(multiprocessing.active_children())
    with pytest.raises(NonFiniteError) as kept:
        start("none", prompts="exploder", set=["data.workers=1"])
    assert kept.tb is not None
    assert set(multiprocessing.active_children()) == before
