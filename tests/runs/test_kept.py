"""Features that frozen streams make of companions are kept on disk, and are what they would be without."""

import errno
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import toy_inputs
from installed import installed
from torch import Tensor

import avcore
from avcore.data import kept
from avcore.data.changes import OWN
from avcore.data.kept import load_segments, save_segments
from avcore.errors import AVCoreError
from avcore.features import StreamFeatures, by_segment, of_segments
from avcore.registry import Registry
from avcore.runs import Run
from avcore.runs.kept import KeptFeatures
from avcore.states import trainable_state
from avcore.streams import Stream


@pytest.fixture(scope="module", autouse=True)
def _toys(world: ModuleType) -> Iterator[None]:
    with installed(Registry.from_modules({"toy-world": world.Plugin(), "toy-inputs": toy_inputs.Plugin()})):
        yield


@pytest.fixture(scope="module")
def files(world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = world.render("listen", tmp_path_factory.mktemp("kept"))
    return root


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_inputs.CompareHead, "companion_reads", {"negative": {"audio": ("pooled",)}})
    monkeypatch.setattr(kept, "_full", set())
    toy_inputs.CompareHead.SEEN.clear()


@pytest.fixture
def run(files: Path, tmp_path: Path) -> Callable[..., Run]:
    def start(name: str, *sets: str, keep: bool = True) -> Run:
        given = (
            "train.epochs=2",
            f"data.cache_features={str(keep).lower()}",
            f"data.cache={tmp_path / 'cache'}",
            *sets,
        )
        return avcore.run(task="compared", data=files, out=tmp_path / name, quiet=True, prompts="rows", set=given)

    return start


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The frozen forwards: which stream, of how many clips."""
    seen: list[tuple[str, int]] = []
    forward = Stream.forward

    def counted(self: Stream, raw: Tensor) -> StreamFeatures:
        if not raw.is_meta:  # assembly follows shapes
            seen.append((self.name, len(raw)))
        return forward(self, raw)

    monkeypatch.setattr(Stream, "forward", counted)
    return seen


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "features").glob("*/*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_companion_is_made_once_and_is_what_it_would_be(
    run: Callable[..., Run], forwards: list[tuple[str, int]], tmp_path: Path, workers: int
) -> None:
    plain = run("plain", f"data.workers={workers}", keep=False)
    # Only the stream that is read, whole batches of it, in every epoch and evaluation.
    assert {name for name, _ in forwards} == {"audio"}
    assert not kept_files(tmp_path)
    forwards.clear()
    toy_inputs.CompareHead.SEEN.clear()
    first = run("first", f"data.workers={workers}")
    drawn = {name for _, pairs in toy_inputs.CompareHead.SEEN for name in pairs.values()}
    made = len(forwards)
    assert forwards == [("audio", 1)] * made
    assert made >= len(drawn) > 0
    # A file for each of the two segments; nothing was made twice.
    assert len(kept_files(tmp_path)) == 2 * made
    forwards.clear()
    again = run("again", f"data.workers={workers}")
    assert forwards == []
    assert len(kept_files(tmp_path)) == 2 * made
    batch = next(iter(again.data.loader("val")))
    negative = batch.companions["negative"]
    assert batch.kept is None
    assert negative.kept is not None
    assert all(negative.kept.known["audio"])
    # Nothing was decoded of it.
    assert negative.frames is negative.waveform is None
    states = [trainable_state(one.model) for one in (plain, first, again)]
    for name, tensor in states[0].items():
        assert torch.equal(states[1][name], tensor), name
        assert torch.equal(states[2][name], tensor), name
    assert plain.results.metrics == first.results.metrics == again.results.metrics


def test_the_second_epoch_makes_nothing_of_what_the_first_has_seen(
    run: Callable[..., Run], forwards: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearest(self: Any, clip: avcore.Clip, random: Any) -> avcore.Clip:
        clips = self.clips(clip.info["split"])
        other = clips[(int(clip.name.removeprefix(clip.info["split"])) + 1) % len(clips)]
        return replace(clip, companions={"negative": other})

    monkeypatch.setattr(toy_inputs.Negatives, "draw", nearest)
    per_epoch: list[int] = []
    loss = toy_inputs.CompareHead.loss

    def noted(self: Any, output: Any, batch: Any, progress: avcore.Progress) -> dict[str, Tensor]:
        while len(per_epoch) <= progress.epoch:
            per_epoch.append(0)
        per_epoch[progress.epoch] += len(forwards)
        forwards.clear()
        return loss(self, output, batch, progress)

    monkeypatch.setattr(toy_inputs.CompareHead, "loss", noted)
    run("one", "train.epochs=3", "train.evaluate=[]", "train.eval_every=3")
    assert per_epoch[0] > 0
    assert per_epoch[1:] == [0, 0]


def test_what_features_depend_on_makes_other_keys(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def key(*sets: str) -> str:
        given = ("data.cache_features=true", *sets)
        model = avcore.create_model(task="compared", prompts="rows", set=given)
        wanted = KeptFeatures(model, lambda: 1).of_companions(OWN, train=True)["negative"]["audio"]
        assert wanted is not None
        return wanted.key

    own = key()
    assert key() == own
    assert key("optim.lr=0.5") == own
    others = [key("frozen=random"), key("train.precision=bf16"), key("data.window_seconds=0.5")]
    monkeypatch.setattr(toy_inputs.CompareHead, "companion_reads", {"negative": {"audio": ("tokens",)}})
    others.append(key())
    assert len({own, *others}) == 5


def test_other_clips_and_segments_have_other_files(run: Callable[..., Run]) -> None:
    done = run("one")
    reader = done.data.loader("train", train=True)._reader
    wanted = reader.companions["negative"]["audio"]
    assert wanted is not None
    names = {file for clip in reader.clips for file in wanted.files(reader._shown("audio", clip))}
    assert len(names) == 2 * len(reader.clips)
    clip = reader.clips[0]
    shown = {
        (reader.cache.named_audio(clip, 8000), reader.cache.named_frames(clip, 32)),
        (reader.cache.named_audio(clip, 16000), reader.cache.named_frames(clip, 64)),
        (reader.cache.named_audio(reader.clips[1], 8000), reader.cache.named_frames(reader.clips[1], 32)),
    }
    assert len({name for pair in shown for name in pair}) == 6


def test_pictures_of_several_clips_are_found_one_by_one(
    run: Callable[..., Run], forwards: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a negative is put together of (`Clip.shots`) is found for another one that has some of it."""

    def two(self: Any, clip: avcore.Clip, random: Any) -> avcore.Clip:
        clips = self.clips(clip.info["split"])[:2]
        places = [int(random.integers(2)) for _ in clips]
        return replace(clip, companions={"negative": replace(clips[0], shots=tuple(zip(clips, places, strict=True)))})

    monkeypatch.setattr(toy_inputs.Negatives, "draw", two)
    monkeypatch.setattr(toy_inputs.CompareHead, "companion_reads", {"negative": {"visual": ("pooled",)}})
    monkeypatch.setattr(toy_inputs.CompareHead, "forward", _of_pictures)
    plain = run("plain", keep=False)
    first = run("first")
    # Two pictures of each of the two first clips of train, val and test.
    assert len(kept_files(tmp_path)) == 3 * 4
    forwards.clear()
    again = run("again")
    assert forwards == []
    for name, tensor in trainable_state(plain.model).items():
        assert torch.equal(trainable_state(first.model)[name], tensor), name
        assert torch.equal(trainable_state(again.model)[name], tensor), name


def _of_pictures(self: Any, features: avcore.Features) -> dict[str, Tensor]:
    """The pictures of the negative against the sound of the clip."""
    own, other = features.stream("audio").pooled.mean(1), features.companions["negative"].stream("visual").pooled
    return {"logits": self.map(own + other[:, 0] - 2 * other[:, 1]), "own": own, "other": own, "kept": torch.zeros(())}


def test_a_damaged_file_is_told_and_made_again(
    run: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run("first")
    whole = {file: file.read_bytes() for file in kept_files(tmp_path)}
    damaged = list(whole)[:3]
    damaged[0].write_bytes(b"")
    damaged[1].write_bytes(whole[damaged[1]][:-9])
    damaged[2].write_bytes(whole[damaged[2]][:-9] + b"x" + whole[damaged[2]][-8:])
    again = run("again")
    for file in damaged:
        assert f"{file} is damaged and is made again." in caplog.text
    assert {file: file.read_bytes() for file in kept_files(tmp_path)} == whole
    for name, tensor in trainable_state(first.model).items():
        assert torch.equal(trainable_state(again.model)[name], tensor)


def test_a_disk_that_takes_no_more_is_told_once_and_stops_nothing(
    run: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept, "write_aside", full)
    done = run("one")
    assert done.results.status == "finished"
    assert caplog.text.count("Features cannot be kept in") == 1
    assert not kept_files(tmp_path)


def test_what_is_augmented_is_not_kept(run: Callable[..., Run], tmp_path: Path) -> None:
    masked = "train.augment.audio=[{name: FrequencyMasking, freq_mask_param: 4}]"
    done = run("one", masked)
    train, val = done.data.loader("train", train=True), done.data.loader("val")
    assert train._reader.companions["negative"] == {"audio": None}
    assert val._reader.companions["negative"]["audio"] is not None
    assert done.data.loader("val_noise")._reader.companions["negative"] == {"audio": None}
    # What evaluations have seen is kept, and nothing of training.
    splits = {clip.name for split in ("val", "test") for clip in done.data.loader(split).clips}
    assert 0 < len(kept_files(tmp_path)) <= 2 * len(splits)


def test_what_goes_through_the_parts_is_never_kept(
    run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = toy_inputs.CompareHead.__init__

    def adapted(self: Any, *given: Any) -> None:
        made(self, *given)
        self.companions = {"negative": "parts"}

    monkeypatch.setattr(toy_inputs.CompareHead, "__init__", adapted)
    monkeypatch.setattr(toy_inputs.CompareHead, "loss", toy_inputs.AnswerHead.loss)
    done = run("one", "train.epochs=1")
    assert done.data.loader("train", train=True)._reader.companions == {}
    assert not kept_files(tmp_path)


def test_where_it_is_kept_and_how_much_is_told(run: Callable[..., Run], tmp_path: Path) -> None:
    log = (run("one").directory / "log.txt").read_text()
    assert (
        f"what the frozen audio stream makes of 'negative' is kept in {tmp_path / 'cache' / 'features'}: up to" in log
    )


def test_a_field_that_the_head_does_not_name_is_not_there(run: Callable[..., Run]) -> None:
    done = run("one", keep=False)
    features = done.model.features(next(iter(done.data.loader("val"))))
    with pytest.raises(AttributeError, match=r"hold pooled alone, and 'tokens' is read: name it in Head\.companion_re"):
        _ = features.companions["negative"].stream("audio").tokens
    assert features.companions["negative"].visual is None


def test_streams_and_fields_that_do_not_exist_are_refused(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    for reads, what in (({"sound": ("pooled",)}, "stream 'sound'"), ({"audio": ("pool",)}, "field 'pool'")):
        monkeypatch.setattr(toy_inputs.CompareHead, "companion_reads", {"negative": reads})
        with pytest.raises(AVCoreError, match=f"CompareHead.companion_reads names the {what}"):
            run("one")


def test_features_of_every_kind_come_back_as_they_were(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    whole = StreamFeatures(
        pooled=torch.randn(2, 3, 4, generator=draws),
        tokens=torch.randn(6, 5, 4, generator=draws).bfloat16(),
        raw_tokens=torch.randn(6, 5, 4, generator=draws).double(),
        maps=tuple(torch.randn(6, 4, size, size, generator=draws) for size in (4, 2)),
    )
    names = [str(tmp_path / "ab" / f"{number}.safetensors") for number in range(6)]
    save_segments(names, by_segment(whole, ("pooled", "tokens", "raw_tokens", "maps")))
    found = load_segments(names)
    assert found is not None
    again = of_segments(found, 3)
    for field in ("pooled", "tokens", "raw_tokens"):
        assert torch.equal(getattr(again, field), getattr(whole, field))
        assert getattr(again, field).dtype == getattr(whole, field).dtype
    assert all(torch.equal(one, other) for one, other in zip(again.maps, whole.maps, strict=True))
    assert load_segments([*names, str(tmp_path / "none")]) is None


def _write(names: list[str], seed: int) -> None:
    for _ in range(20):
        for name in names:
            Path(name).unlink(missing_ok=True)
        save_segments(names, {"tokens": torch.full((2, 300, 8), 7.0)})


def test_several_processes_may_fill_it(tmp_path: Path) -> None:
    names = [str(tmp_path / "ab" / f"{number}.safetensors") for number in range(2)]
    started = [multiprocessing.get_context("fork").Process(target=_write, args=(names, seed)) for seed in range(3)]
    for process in started:
        process.start()
    while any(process.is_alive() for process in started):
        found = load_segments(names)
        assert found is None or (found["tokens"] == 7).all()
    assert all(process.exitcode == 0 for process in started)
    assert load_segments(names) is not None
    assert not list(tmp_path.glob("*/*.tmp"))
