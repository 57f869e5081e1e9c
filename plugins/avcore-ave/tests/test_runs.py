"""From real media to a trained head, pictures and an overlay, on a few clips and a tiny random backbone."""

import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import avcore
import avcore_ave
import avcore_copl
import avcore_timm
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.registry import Registry
from avcore.specs import BackboneSpec
from avcore.testing.golden import real_data
from avcore_timm.settings import ViTSettings

TINY = {"model": "vit_tiny_patch16_224", "arguments": {"img_size": 48, "embed_dim": 48, "depth": 4, "num_heads": 3}}


@hookimpl
def avcore_backbones() -> Iterable[BackboneSpec]:
    return [BackboneSpec(name="tiny", build="avcore_timm.vit:build", config=ViTSettings, presets={"tiny": TINY})]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path) -> Iterator[None]:
    registry = Registry.from_modules(
        {
            "avcore-timm": avcore_timm,
            "avcore-copl": avcore_copl,
            "avcore-ave": avcore_ave,
            "tiny": SimpleNamespace(avcore_backbones=avcore_backbones),
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("avcore.runs.start", "avcore.runs.base", "avcore.assemble", "avcore.cli.data"):
            module = importlib.import_module(name)
            patch.setattr(module, "load_registry", lambda: registry)
        patch.setenv("AVCORE_CACHE", str(tmp_path / "cache"))
        patch.delenv("AVCORE_DATA", raising=False)
        yield


def _of(category: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(f"{category}&")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two clips of each of two classes in each split, their real media, and two events of one video."""
    source = real_data("mini", "AVE")
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "AVE").symlink_to(source / "AVE")
    rows = []
    for split in ("train", "val", "test"):
        listed = (source / f"{split}Set.txt").read_text().splitlines()
        kept = [line for name in ("Dog, bark", "Frog") for line in _of(name, listed)[:2]]
        if split == "train":
            kept.append(kept[0].replace("Dog, bark", "Frog"))
        (folder / f"{split}Set.txt").write_text("\n".join(kept))
        rows += kept
    (folder / "Annotations.txt").write_text("\n".join(sorted(rows)))
    return folder


SETTINGS = ("visual.weights=random", "train.precision=fp32", "train.batch_size=3")


def run(root: Path, out: Path, *sets: str, method: str = "copl", task: str = "ave", **options: object):
    return avcore.run(
        method, task=task, visual="tiny", data=root, epochs=1, set=(*SETTINGS, *sets), out=out, quiet=True, **options
    )


def test_the_classes_are_those_of_the_files(root: Path, tmp_path: Path) -> None:
    trained = run(root, tmp_path / "run")
    assert trained.config.task_options.names == ("Dog, bark", "Frog", "background")


def test_other_classes_are_refused_before_anything_is_done(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AVCoreError, match=r"task_options\.classes has 2 classes"):
        run(root, tmp_path / "run", "task_options.classes=[Frog, Cat]")
    assert not (tmp_path / "run").exists()


def test_a_run_with_its_pictures_a_prediction_and_an_evaluation_later(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path / "run", "train.evaluate=[test, test_swapped]")
    assert done.config.method == "copl"
    assert done.model.head.output.out_features == 3
    metrics = done.results.metrics
    assert metrics.keys() == {"val", "test", "test_swapped"}
    assert metrics["test"].keys() == {"accuracy", "accuracy_event", "accuracy_background"}
    assert 0 <= metrics["test"]["accuracy"] <= 100
    assert done.results.selected_on == "val"
    pictures = sorted((tmp_path / "run" / "pictures").glob("test-*.png"))
    assert len(pictures) == 4

    again = avcore.load_run(tmp_path / "run")
    assert again.config.task_options.names == ("Dog, bark", "Frog", "background")
    assert again.evaluate("test") == metrics["test"]

    clip = next(iter(done.data.dataset.clips("test")))
    prediction = again.predict(clip.frames, tmp_path / "out")
    assert prediction.video.is_file()
    assert len(prediction.segments) == 10
    named = re.compile(r"(Dog, bark|Frog|background) \d+ %")
    assert all(named.fullmatch(segment.text) for segment in prediction.segments)


def test_the_paper_protocol_selects_on_test(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path / "run", method="none", protocol="paper", streams="audio")
    assert done.results.selected_on == "test"
    assert done.results.metrics["test"].keys() == {"accuracy", "accuracy_running"}


def test_labels_of_clips_alone_train_and_those_of_segments_judge(root: Path, tmp_path: Path) -> None:
    small = ("head.name=ave.cmbs", "head.visual_width=16", "head.attention=8", "head.temporal.width=16")
    (root / "quiet.txt").write_text("gone")
    done = run(root, tmp_path / "run", *small, "data.negatives=quiet", task="ave-weak", method="none")
    assert type(done.model.head.localisation).__name__ == "WeakLocalisation"
    assert {*done.data.dataset.target(done.data.dataset.clips("train")[0])} == {"clip_label"}
    assert done.results.metrics["test"].keys() == {"accuracy", "accuracy_event", "accuracy_background"}
    assert avcore.load_run(tmp_path / "run").evaluate("test") == done.results.metrics["test"]


def test_data_info(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from avcore.cli.data import data

    arguments = ["info", "ave", "--data", str(root)]
    data.main(arguments, standalone_mode=False)
    shown = capsys.readouterr().out
    assert "train         5 clips   2 groups: Dog, bark 2, Frog 3" in shown
    assert "target   labels (10,)" in shown

    data.main(["info", "ave-weak", "--data", str(root)], standalone_mode=False)
    assert "clip_label" in capsys.readouterr().out
