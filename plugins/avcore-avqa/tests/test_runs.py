"""From real media and questions to a trained head, pictures and an answer, on a few clips and a tiny backbone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import only

import avcore
import avcore_avqa
from avcore.errors import AVCoreError
from avcore.streams import Stream
from avcore.tasks import StreamFeatures
from avcore.testing.golden import real_data

SETTINGS = (
    *("data.window_seconds=1.0", "data.window_margin=1.1", "data.segments=4"),
    *("visual.weights=random", "train.precision=fp32", "train.batch_size=4", "head.width=16"),
)


installed = only(avcore_avqa)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The questions about a few videos of each split; the last one of test has vanished."""
    source = real_data("mini", "AVQA")
    folder = tmp_path / "few"
    (folder / "json").mkdir(parents=True)
    (folder / "videos").mkdir()
    for split, count in (("train", 3), ("val", 2), ("test", 3)):
        rows = json.loads((source / f"json/avqa-{split}.json").read_text())
        videos = list(dict.fromkeys(row["video_id"] for row in rows))[:count]
        # Questions of all videos of train, so that no word or answer of the others is unknown.
        kept = [row for row in rows if row["video_id"] in videos] if split != "train" else rows
        (folder / f"json/avqa-{split}.json").write_text(json.dumps(kept))
        for video in videos[: None if split != "test" else -1]:
            (folder / "videos" / f"{video}.mp4").symlink_to(source / "videos" / f"{video}.mp4")
    return folder


def test_a_question_travels_from_the_file_to_the_answer(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = avcore.run(
        "none",
        task="avqa",
        visual="tiny",
        data=root,
        epochs=1,
        protocol="paper",
        set=(*SETTINGS, "train.evaluate=[test, test_mute_audio]", "data.broken_limit=0.99"),
        out=tmp_path / "run",
        quiet=True,
    )
    assert len(done.config.task_options.answers) == 18
    assert done.config.data.settings.clip_seconds == 10
    assert done.results.selected_on == "val"
    assert done.results.notes[0] == "Questions are those of json/ (data.questions)."
    metrics = done.results.metrics
    assert metrics["val"]["coverage"] == 100
    assert metrics["test"]["coverage"] == pytest.approx(200 / 3)
    for split, scores in metrics.items():
        assert (f"On {split} " in caplog.text) == (scores["accuracy"] <= scores["prior"])
    assert {"accuracy", "AQ", "VQ", "AVQ", "prior"} < metrics["test"].keys()
    assert Image.open(sorted((tmp_path / "run" / "pictures").glob("test-*.png"))[0]).width > 500

    video = tmp_path / "own.mp4"
    shutil.copy(done.data.dataset.clips("test")[0].frames, video)
    shutil.rmtree(root)
    # Nothing of the data set is left: words and answers are those of the run.
    again = avcore.load_run(tmp_path / "run")
    for question in ("Is the dog louder than the cat?", "how many animals are sounding in the video"):
        found = again.predict(video, tmp_path / question[:2], inputs={"question": question})
        text = found.spans[0].text
        assert text.lower().startswith(question.strip("?").lower() + "? ")
        assert text.count(" %") == 3
        # One answer for the clip, and what was attended to in each of its four segments.
        assert len(found.spans) == 1
        attention = found.spans[0].details["attention"]
        assert [(one["start"], round(one["end"], 1)) for one in attention] == [(0, 2.5), (2.5, 5), (5, 7.5), (7.5, 10)]
        for kind in ("sound", "pictures"):
            assert sum(one[kind] for one in attention) == pytest.approx(1, abs=0.01)
    with pytest.raises(AVCoreError, match="'elephant'"):
        again.predict(video, tmp_path / "none", inputs={"question": "Is there a elephant sound?"})
    with pytest.raises(AVCoreError, match=r"add --input question=.*words of the training questions"):
        again.predict(video, tmp_path / "none")


def test_pictures_of_negatives_are_made_once_and_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, whatever others it is drawn with; another model with the same frozen weights makes none."""
    made: list[str] = []
    forward = Stream.forward

    def counted(self: Stream, raw: torch.Tensor) -> StreamFeatures:
        made.append(self.name)
        return forward(self, raw)

    where = (f"data.root={root}", "data.dataset=music-avqa", f"data.cache={tmp_path / 'cache'}")
    seen: dict[bool, list[torch.Tensor]] = {}
    for keep, times in ((False, 1), (True, 2)):
        for _ in range(times):
            sets = (*SETTINGS, *where, f"data.cache_features={str(keep).lower()}", "data.broken=skip")
            model = avcore.create_model("none", task="avqa", visual="tiny", set=sets).eval()
            batches = [next(iter(avcore.open_data(model).loader("val")))]
            made.clear()
            with monkeypatch.context() as patched, torch.no_grad():
                patched.setattr(Stream, "forward", counted)
                seen.setdefault(keep, []).extend(model(batch)["match_negative"] for batch in batches)
    # The last model has found all pictures and the clip's own sound, and nothing else is made of a negative.
    assert made == []
    files = list((tmp_path / "cache" / "features").glob("*/*"))
    assert 0 < len(files) <= 4 * 3  # segments: pictures of two videos, as negatives and as clips; the sound of one
    assert torch.equal(seen[True][0], seen[True][1])
    torch.testing.assert_close(seen[True][0], seen[False][0])


def test_a_run_tells_that_clips_are_set_longer_than_the_videos(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "00000000.mp4 lasts 10.0 s; the clip is to end at 60.0 s."
    for settings, notes in ((("data.clip_seconds=60",), 1), ((), 0)):
        # Files are looked at before the weights, which are not there.
        sets = (*settings, "visual.weights=none.safetensors", "data.broken=skip")
        with pytest.raises(AVCoreError, match=r"none\.safetensors"):
            avcore.run("none", task="avqa", visual="vit_tiny_patch16_224", data=root, set=sets, out=root / str(notes))
        assert "".join(capsys.readouterr()).count(told) == notes
