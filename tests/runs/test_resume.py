"""Going on with a run: to the same end, bit for bit; and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import avcore
from avcore.engine.checkpoint import CheckpointStore
from avcore.errors import AVCoreError

VARIANTS = {
    "plain": [],
    "scaled": ["optim.schedule=multistep", "optim.milestones=[1]", "optim.warmup_epochs=0.7", "parts.rows.lr_scale=3"],
    "ema": ["train.average=ema", "train.average_decay=0.7"],
    "window": ["train.average=epochs", "train.average_epochs=[2, 3]"],
    "accumulated": ["optim.accumulate=2", "train.eval_every=2", "optim.optimizer=adamw", "optim.schedule=cosine"],
}


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory, end_of):
    """The ends, and the scalars of every step, of runs of four epochs that nobody stops."""
    found = {}
    for name, settings in VARIANTS.items():
        world.STEPS.clear()
        out = tmp_path_factory.mktemp("straight") / name
        avcore.run("rowing", task="listen", epochs=4, set=settings, out=out, quiet=True)
        found[name] = (end_of(out), list(world.STEPS))
    return found


def stop(start, world, at, **options):
    world.INTERRUPT_AT[:] = [at]
    with pytest.raises(KeyboardInterrupt):
        start(**options)
    world.INTERRUPT_AT.clear()


@pytest.mark.parametrize(
    ("variant", "workers", "at"),
    [
        pytest.param("plain", 0, (4,), id="mid-epoch"),
        pytest.param("plain", 0, (0, 5, 8), id="after the first step, and twice at an epoch's end"),
        pytest.param("plain", 2, (4, 7), id="two workers"),
        pytest.param("scaled", 0, (1, 5), id="warm-up, milestones, a part's own rate"),
        pytest.param("ema", 0, (4, 5), id="moving average"),
        pytest.param("window", 0, (4, 5, 7), id="average of a window of epochs"),
        pytest.param("accumulated", 0, (4,), id="accumulated, cosine, rarely evaluated"),
    ],
)
def test_a_stopped_run_comes_to_the_same_end(start, world, tmp_path, end_of, straight, variant, workers, at):
    expected, steps = straight[variant]
    options = {"epochs": 4, "set": [*VARIANTS[variant], f"data.workers={workers}"]}
    resumed = {}
    for step in at:
        stop(start, world, step, **options, **resumed)
        done = CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").progress
        assert done.step == step + 1
        resumed = {"resume": True}
    avcore.run(resume=tmp_path / "run", quiet=True)
    assert end_of(tmp_path / "run") == expected
    assert steps == world.STEPS


def test_saving_more_often_changes_nothing(start, world, end_of, straight):
    run = start(epochs=4, set=["train.save_every=2"])
    saved = [name for call, name in world.CALLS if call == "checkpoint_saved"]
    assert saved == [f"step-{step:08d}" for step in (2, 3, 4, 6, 8, 9, 10, 12)]
    assert end_of(run.directory) == straight["plain"][0]


def test_a_finished_run_takes_more_epochs(start, end_of, straight):
    run = start(epochs=2)
    start(epochs=4, resume=True)
    assert end_of(run.directory) == straight["plain"][0]
    assert avcore.load_run(run.directory).config.train.epochs == 4


def test_a_course_that_depends_on_the_length_takes_no_more_epochs(start):
    start(epochs=1, set=["optim.schedule=cosine"])
    with pytest.raises(AVCoreError, match=r"train\.epochs is 2, was 1.*unless optim\.schedule is cosine or polynomial"):
        start(epochs=2, resume=True, set=["optim.schedule=cosine"])


def test_nothing_is_done_for_a_finished_run(start, world, capsys):
    first = start(epochs=1)
    world.CALLS.clear()
    again = avcore.run(resume=first.directory)
    assert "is finished; there is nothing to go on with" in capsys.readouterr().out
    assert world.CALLS == []
    assert again.results == first.results
    assert again.evaluate("test") == first.results.metrics["test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": ["optim.lr=0.5"]}, r"optim\.lr is 0\.5, was 0\.02"),
        ({"seed": 7, "streams": "audio"}, r"streams is 'audio', was 'both'; seed is 7, was 0"),
        ({"epochs": 1}, r"train\.epochs is 1, was 2"),
        ({"set": ["parts.rows.length=5"]}, r"parts\.rows\.length is 5, was 2"),
    ],
)
def test_other_settings_are_refused_by_name(start, finished, options, message):
    given = {"baseline": True, "set": ["train.evaluate=[test, test_swapped]"]}
    given["set"] = [*given["set"], *options.pop("set", [])]
    before = sorted((path, path.stat().st_mtime_ns) for path in finished.directory.rglob("*"))
    with pytest.raises(AVCoreError, match=message):
        start(**given, **options, out=finished.directory, resume=True)
    with pytest.raises(AVCoreError, match=message):
        avcore.run(resume=finished.directory, set=given["set"], **options)
    assert sorted((path, path.stat().st_mtime_ns) for path in finished.directory.rglob("*")) == before


def test_how_the_work_is_done_may_change(start, world, end_of, straight):
    stop(start, world, 4, epochs=4)
    run = start(epochs=4, resume=True, set=["data.workers=1", "train.log_every=3", "train.save_every=5"])
    assert end_of(run.directory) == straight["plain"][0]
    assert avcore.load_run(run.directory).config.train.save_every == 5


def test_with_resume_a_run_begins_where_there_is_none(start, tmp_path, end_of, straight):
    run = start(epochs=4, resume=True)
    assert end_of(run.directory) == straight["plain"][0]


def test_what_a_kill_in_the_first_moments_leaves_is_taken_over(start, tmp_path):
    for name in ("pictures", "checkpoints", "checkpoints/.tmp-step-00000001-7"):
        (tmp_path / "run" / name).mkdir(parents=True)
    for name in ("log.txt", "events.out.tfevents.1", ".tmp-config.yaml-7"):
        (tmp_path / "run" / name).touch()
    with pytest.raises(AVCoreError, match="is not empty: name another"):
        start(epochs=1)
    run = start(epochs=1, resume=True)
    assert run.results.status == "finished"
    assert not list(run.directory.rglob(".tmp-*"))


def test_other_files_are_never_taken_over(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    with pytest.raises(AVCoreError, match="not empty"):
        start(resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": True, "out": None}, "Which run"),
        ({"resume": "elsewhere"}, r"--resume elsewhere names the run"),
        ({"resume": "elsewhere", "out": None}, "no such folder"),
    ],
)
def test_a_run_that_is_not_there_is_named(start, options, message):
    with pytest.raises(AVCoreError, match=message):
        start(**options)


def test_without_resume_a_run_is_not_touched_and_the_way_is_shown(start, finished):
    with pytest.raises(AVCoreError, match=rf"not empty: go on with the run in it \(--resume {finished.directory}\)"):
        start(out=finished.directory)


def test_seeds_go_on_where_they_were(start, world, tmp_path):
    whole = start(seeds=2, epochs=1, out=tmp_path / "whole")
    first = True

    def interrupt():
        nonlocal first
        if (tmp_path / "run" / "seed-1" / "checkpoints").is_dir() and first:
            first = False
            raise KeyboardInterrupt

    world.MOMENTS["step"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        start(seeds=2, epochs=1)
    world.CALLS.clear()
    run = start(seeds=2, epochs=1, resume=True)
    assert [path.name for call, path in world.CALLS if call == "run_started"] == ["seed-1"]
    assert run.results.metrics == whole.results.metrics
    assert run.results.metrics_sd == whole.results.metrics_sd


def test_the_head_alone_goes_on_too(start, world, tmp_path, end_of):
    whole = start(epochs=1, baseline=True, out=tmp_path / "whole")
    first = True

    def interrupt():
        nonlocal first
        if (tmp_path / "run" / "baseline").is_dir() and first:
            first = False
            raise KeyboardInterrupt

    world.MOMENTS["saved"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        start(epochs=1, baseline=True)
    run = avcore.run(resume=tmp_path / "run", quiet=True)
    for part in (".", "baseline"):
        assert end_of(run.directory / part) == end_of(whole.directory / part)


def test_curves_have_every_step_once(start, world, tmp_path):
    stop(start, world, 4, epochs=3)
    # As if it had been killed before its first checkpoint: the events of the steps that are lost are there.
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "lost")
    avcore.run(resume=tmp_path / "run", quiet=True)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert sorted({event.step for event in events.Scalars("train/loss")}) == list(range(9))
    assert [event.step for event in events.Scalars("val/accuracy")] == [3, 6, 9]


def test_time_adds_up(start, world, tmp_path):
    stop(start, world, 4, epochs=3)
    file = tmp_path / "run" / "results.json"
    results = json.loads(file.read_text())
    assert results["status"] == "interrupted"
    file.write_text(json.dumps({**results, "seconds": 1000.0}))
    assert avcore.run(resume=tmp_path / "run", quiet=True).results.seconds > 1000


@pytest.mark.parametrize("content", ["3", "null", '{"format": 1}', "[" * 100_000])
def test_damaged_results_are_one_clear_error(start, tmp_path, content):
    start(epochs=0)
    (tmp_path / "run" / "results.json").write_text(content)
    with pytest.raises(AVCoreError, match=r"results\.json is damaged: "):
        avcore.run(resume=tmp_path / "run", quiet=True)


def test_a_damaged_checkpoint_is_spoken_of(start, world, tmp_path, capsys, end_of, straight):
    stop(start, world, 4, epochs=4)
    latest = CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").path
    (latest / "model.safetensors").write_bytes(b"")
    avcore.run(resume=tmp_path / "run")
    out = capsys.readouterr().out
    assert "model.safetensors is 0 bytes" in out
    assert "going on after step 3 (epoch 1)" in out
    assert end_of(tmp_path / "run") == straight["plain"][0]


def test_other_frozen_weights_are_refused(start, world, tmp_path):
    stop(start, world, 4)
    state = CheckpointStore(tmp_path / "run" / "checkpoints").open("latest").path / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "frozen_digest": "0" * 64}))
    with pytest.raises(AVCoreError, match="other frozen weights"):
        avcore.run(resume=tmp_path / "run", quiet=True)


def test_other_clips_are_refused(start, world, tmp_path):
    root = world.render("listen", tmp_path, seed=3)
    stop(start, world, 4, data=root)
    for clip in range(5):
        (root / "train" / f"{clip}.wav").unlink()
    with pytest.raises(AVCoreError, match="does not fit 1 steps in an epoch: the split train has other clips"):
        avcore.run(resume=tmp_path / "run", quiet=True)


def test_what_is_installed_otherwise_is_said_first(start, finished, tmp_path, capsys):
    copy = tmp_path / "earlier"
    copy.mkdir()
    for name in ("config.yaml", "results.json"):
        (copy / name).write_text((finished.directory / name).read_text())
    options = {"config": copy / "config.yaml", "task": None, "epochs": 0, "baseline": False, "quiet": False}
    start(None, **options)
    assert "may differ" not in capsys.readouterr().out
    results = json.loads((copy / "results.json").read_text())
    results["versions"] |= {"torch": "1.0", "avcore-old": "3"}
    (copy / "results.json").write_text(json.dumps({**results, "threads": 99}))
    start(None, **options, out=tmp_path / "other")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("DEMO DATA")
    assert f"otherwise than for {copy}, so numbers may differ: avcore-old missing (was 3), threads " in lines[1]
    assert "(was 99), torch " in lines[1]
    assert lines[1] in (tmp_path / "other" / "log.txt").read_text()


def test_two_processes_never_work_in_one_directory(start, world, tmp_path):
    stop(start, world, 4)
    hold = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "run" / "log.txt")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(AVCoreError, match="Another process works in"):
            avcore.run(resume=tmp_path / "run", quiet=True)
        other.stdin.close()
    assert avcore.run(resume=tmp_path / "run", quiet=True).results.status == "finished"


def test_deterministic_runs_give_the_same_bits(start, tmp_path, end_of):
    ends = []
    for name in ("one", "other"):
        out: Path = tmp_path / name
        start(epochs=4, out=out, set=["deterministic=true", "train.batch_size=1", "train.eval_every=4"])
        ends.append(end_of(out))
    assert ends[0]["latest"][0].step == 48
    assert ends[0] == ends[1]
