"""What frozen streams make of clips that a head alone trains on is kept on disk, and is what it would be without."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import toy_inputs
from installed import installed
from torch import Tensor

import avcore
from avcore.errors import AVCoreError
from avcore.features import FIELDS, StreamFeatures
from avcore.registry import Registry
from avcore.runs import Run
from avcore.states import trainable_state
from avcore.streams import Stream, Streams

CHANGED = ("test_swapped", "test_noise", "test_mute_audio", "test_mute_visual", "test_mute_both")


@pytest.fixture(scope="module", autouse=True)
def _toys(world: ModuleType) -> Iterator[None]:
    with installed(Registry.from_modules({"toy-world": world.Plugin(), "toy-inputs": toy_inputs.Plugin()})):
        yield


@pytest.fixture(scope="module")
def files(world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = world.render("listen", tmp_path_factory.mktemp("kept"))
    return root


@pytest.fixture
def run(files: Path, tmp_path: Path) -> Callable[..., Run]:
    def start(name: str, *sets: str, **options: Any) -> Run:
        options = {"prompts": "none", "fusions": "none", **options}
        given = ("train.epochs=2", f"data.cache={tmp_path / 'cache'}", *sets)
        return avcore.run(task="asked", data=files, out=tmp_path / name, quiet=True, set=given, **options)

    return start


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The streams that ran, by themselves and together."""
    seen: list[str] = []
    alone, together = Stream.forward, Streams.forward

    def one(self: Stream, raw: Tensor) -> StreamFeatures:
        if not raw.is_meta:  # assembly follows shapes
            seen.append(self.name)
        return alone(self, raw)

    def both(self: Streams, images: Any, bias: Any = None) -> Any:
        if not any(image.is_meta for image in images.values()):
            seen.extend(images)
        return together(self, images, bias)

    monkeypatch.setattr(Stream, "forward", one)
    monkeypatch.setattr(Streams, "forward", both)
    return seen


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "features").glob("*/*"))


def equal(one: Run, other: Run) -> bool:
    mine, others = trainable_state(one.model), trainable_state(other.model)
    return one.results.metrics == other.results.metrics and all(torch.equal(mine[name], others[name]) for name in mine)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_head_alone_runs_each_stream_once_for_each_clip(
    run: Callable[..., Run], forwards: list[str], tmp_path: Path, workers: int
) -> None:
    plain = run("plain", f"data.workers={workers}", "data.cache_features=false")
    assert len(forwards) > 0
    assert not kept_files(tmp_path)
    forwards.clear()
    first = run("first", f"data.workers={workers}")
    clips = sum(len(first.data.loader(split).clips) for split in ("train", "val", "test"))
    assert sorted(forwards) == ["audio"] * clips + ["visual"] * clips
    assert len(kept_files(tmp_path)) == 2 * 2 * clips  # of each stream and segment
    forwards.clear()
    shutil.rmtree(tmp_path / "cache" / "frames")
    again = run("again", f"data.workers={workers}", "train.evaluate=[test,test_swapped]")
    assert forwards == []
    batch = next(iter(again.data.loader("train", train=True)))
    assert batch.frames is batch.waveform is None
    assert batch.kept is not None
    assert all(all(known) for known in batch.kept.known.values())
    # Decoded for the pictures that are drawn, those of test and two of val, and for nothing else.
    assert len(list((tmp_path / "cache" / "frames").glob("*/*"))) <= len(again.data.loader("test").clips) + 2
    assert equal(plain, first)
    for name, tensor in trainable_state(plain.model).items():
        assert torch.equal(trainable_state(again.model)[name], tensor), name


def test_other_sound_and_pictures_score_what_they_did(run: Callable[..., Run], forwards: list[str]) -> None:
    measured = f"train.evaluate=[test,{','.join(CHANGED)}]"
    plain = run("plain", "data.cache_features=false", measured)
    first, again = run("first", measured), run("again", measured)
    assert equal(plain, first)
    assert equal(plain, again)
    # The sound of another clip is known; noise and silence are no clip's.
    for split, ran in zip(CHANGED, (set(), {"audio"}, {"audio"}, {"visual"}, {"visual", "audio"}), strict=True):
        forwards.clear()
        again.evaluate(split)
        assert set(forwards) == ran


def test_pictures_are_drawn_of_what_is_known(run: Callable[..., Run]) -> None:
    plain, done = run("plain", "data.cache_features=false"), run("one")
    for split in ("test", "test_mute_visual"):
        expected, found = (one.examine(split, examples=3).examples for one in (plain, done))
        assert [one.name for one in found] == [one.name for one in expected]
        for one, other in zip(expected, found, strict=True):
            assert one.frames is not None
            assert other.frames is not None
            assert torch.equal(one.frames, other.frames)


def test_damaged_files_are_made_again(
    run: Callable[..., Run], forwards: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run("first")
    whole = {file: file.read_bytes() for file in kept_files(tmp_path)}
    damaged = next(iter(whole))
    damaged.write_bytes(whole[damaged][:-9] + b"x" + whole[damaged][-8:])
    forwards.clear()
    again = run("again")
    assert len(forwards) == 1
    assert f"{damaged} is damaged and is made again." in caplog.text
    assert {file: file.read_bytes() for file in kept_files(tmp_path)} == whole
    assert equal(first, again)


def test_other_weights_and_precision_have_features_of_their_own(run: Callable[..., Run], tmp_path: Path) -> None:
    first = run("first")
    before = len(kept_files(tmp_path))
    for number, changed in enumerate(("frozen=random", "visual.seed=8", "train.precision=bf16"), start=2):
        plain = run(f"plain{number}", changed, "data.cache_features=false")
        other = run(f"other{number}", changed)
        assert equal(plain, other)
        assert not equal(first, other)
        assert len(kept_files(tmp_path)) == number * before


MASKED = "train.augment.audio=[{name: FrequencyMasking, freq_mask_param: 4}]"
FLIPPED = "train.augment.visual=[{name: RandomHorizontalFlip}]"


@pytest.mark.parametrize(
    ("changed", "stream", "remedy"),
    [
        (MASKED, "audio", "--set train.augment.audio=[]"),
        (FLIPPED, "visual", "--set train.augment.visual=[]"),
        ("train.augment.mix.p=0.5", "audio", "--set train.augment.mix.p=0"),
        ("data.drop=visual:0.5", "visual", "--set data.drop=null"),
    ],
)
def test_what_changes_in_training_is_refused(run: Callable[..., Run], changed: str, stream: str, remedy: str) -> None:
    with pytest.raises(AVCoreError) as caught:
        run("one", changed, "data.cache_features=true")
    text = str(caught.value)
    assert text.startswith(f"data.cache_features=true: {changed.partition('=')[0]} changes")
    assert f"changes what the {stream} stream is given" in text
    assert remedy in text
    assert "data.cache_features=auto" in text
    assert "\n" not in text


def test_streams_that_parts_act_on_are_refused(run: Callable[..., Run]) -> None:
    with pytest.raises(
        AVCoreError, match=r"part 'rows' acts on the visual stream .* Leave the part out, or write data"
    ):
        run("one", "data.cache_features=true", prompts="rows")


def test_by_itself_it_is_used_where_it_may_and_pays(
    run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(name: str, *sets: str, **options: Any) -> set[str]:
        done = run(name, *sets, **options)
        batch = next(iter(done.data.loader("train", train=True)))
        return set() if batch.kept is None else set(batch.kept.known)

    assert kept("one epoch", "train.epochs=1") == set()
    assert kept("no epoch", "train.epochs=0") == set()
    assert kept("parts", prompts="rows") == set()
    assert kept("masked", MASKED) == {"visual"}
    assert kept("flipped", FLIPPED) == {"audio"}
    assert kept("dropped", "data.drop=audio:0.5") == {"visual"}
    assert kept("asked", "train.epochs=1", "data.cache_features=true") == {"visual", "audio"}
    assert kept("plain") == {"visual", "audio"}
    assert kept("alone", streams="audio") == {"audio"}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 16))
    assert kept("full") == set()


@pytest.mark.parametrize("changed", [MASKED, FLIPPED])
def test_the_other_stream_is_augmented_as_without(run: Callable[..., Run], changed: str) -> None:
    assert equal(run("plain", changed, "data.cache_features=false"), run("first", changed))


def test_the_head_alone_beside_a_run_uses_it_and_tells(run: Callable[..., Run], tmp_path: Path) -> None:
    done = run("one", prompts="rows", baseline=True)
    told = "what the frozen visual and audio streams make of a clip is kept in "
    assert told not in (done.directory / "log.txt").read_text()
    log = (done.directory / "baseline" / "log.txt").read_text()
    clips = sum(len(done.data.loader(split).clips) for split in ("train", "val", "test"))
    # Two streams, two segments each: a file takes 4 KiB at least.
    line = f"{told}{tmp_path / 'cache' / 'features'}: 16 KiB for a clip, {16 * clips / 1024:.1f} MiB for all {clips} ("
    assert line in log
    assert len(kept_files(tmp_path)) == 4 * clips


def test_what_a_head_reads_is_found_and_else_all_is_kept(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads() -> Any:
        return avcore.create_model(task="asked", prompts="none", fusions="none").reads

    assert reads() == {"visual": ("pooled",), "audio": ("pooled",)}
    predict = toy_inputs.AnswerHead.predict

    def looking(self: Any, output: Any, features: avcore.Features) -> Any:
        return {**predict(self, output, features), "map": features.stream("visual").maps[-1]}

    monkeypatch.setattr(toy_inputs.AnswerHead, "predict", looking)
    assert reads() == {"visual": ("maps",), "audio": ("pooled",)}

    def valued(self: Any, output: Any, features: avcore.Features) -> Any:
        return {**predict(self, output, features), "first": output["logits"][0, 0].item()}

    monkeypatch.setattr(toy_inputs.AnswerHead, "predict", valued)
    assert reads() == {"visual": FIELDS, "audio": FIELDS}
    # And a run on everything is what it was.
    monkeypatch.setattr(toy_inputs.AnswerHead, "predict", predict)
    monkeypatch.setattr("avcore.gradients._reads", lambda model: dict.fromkeys(model.clips, FIELDS))
    assert equal(run("plain", "data.cache_features=false"), run("first"))
