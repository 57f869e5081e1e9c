"""An encoder of videos, which takes several pictures of each segment, from the files to a prediction."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from installed import installed
from media import grey_video
from torch import Tensor

import avcore
from avcore.data.verify import list_clips, verify
from avcore.hookspecs import hookimpl
from avcore.registry import Registry
from avcore.runs import Run
from avcore.specs import BackboneSpec, ClipSettings, ImageGeometry
from avcore.testing.toys import at_hand, make_batch

RATE = 16000


@pytest.fixture(scope="module")
def pairs(world: ModuleType) -> Iterator[None]:
    """A backbone whose pictures are pairs; their first and second one count differently."""

    class Pairs(world.ToyTower):  # type: ignore[misc, name-defined]
        def __init__(self, trunk: Any, stream: str, segments: int) -> None:
            super().__init__(trunk, stream, segments)
            if stream == "visual":
                self.geometry = ImageGeometry(size=8, frames=2)

        def embed(self, image: Tensor) -> Tensor:
            if self.stream != "visual":
                return super().embed(image)  # type: ignore[no-any-return]
            assert image.shape[1:] == (2, 3, 8, 8)
            return super().embed(image[:, 0]) + 2 * super().embed(image[:, 1])  # type: ignore[no-any-return]

    class Trunk(world.Trunk):  # type: ignore[misc, name-defined]
        def tower(self, stream: str, settings: Any, segments: int, windows: Any = None) -> Any:
            return Pairs(self, stream, segments).freeze()

    class Plugin:
        @hookimpl
        def avcore_backbones(self) -> list[BackboneSpec]:
            fields: dict[str, Any] = {"config": world.TrunkSettings, "presets": {"test_pairs": {}}}
            return [at_hand(BackboneSpec, name="pairs", thing=Trunk, **fields)]

    with installed(Registry.from_modules({"toy-world": world.Plugin(), "toy-pairs": Plugin()})):
        yield


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Four seconds, ever brighter, with noise."""
    noise = np.random.default_rng(0).integers(-900, 900, (4 * RATE, 1)).astype(np.int16)
    return grey_video(tmp_path / "four.mkv", range(20, 220, 5), noise, RATE)


@pytest.fixture
def run(pairs: None, tmp_path: Path) -> Callable[..., Run]:
    def start(*sets: str) -> Run:
        # The clips of the toy world have two pictures: one segment of two.
        cut = ["data.segments=1", "data.window_seconds=2", "data.window_margin=2"]
        where = {"out": tmp_path / "run", "quiet": True}
        return avcore.run("rowing", task="listen", visual="test_pairs", set=[*cut, "train.epochs=1", *sets], **where)

    return start


def test_a_tower_of_pairs_trains_and_predicts(
    run: Callable[..., Run], video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run()
    batch = next(iter(done.data.loader("val")))
    assert batch.frames is not None
    assert batch.frames.shape == (4, 1, 2, 3, 8, 8)
    assert make_batch(done.model).frames.shape == (2, 1, 2, 3, 8, 8)  # type: ignore[union-attr]
    expected = done.model.features(batch).stream("visual")
    assert expected.tokens.shape == (4, 4, 8)
    batch.frames = batch.frames.flip(2)
    assert not torch.allclose(done.model.features(batch).stream("visual").tokens, expected.tokens)
    assert done.results.status == "finished"

    seen: list[Tensor] = []
    features = type(done.model).features

    def watched(self: Any, batch: Any) -> Any:
        seen.append(batch.frames)
        return features(self, batch)

    monkeypatch.setattr(type(done.model), "features", watched)
    found = done.predict(video, tmp_path / "predicted")
    assert found.strip.exists()
    assert [frames.shape for frames in seen] == [(1, 1, 2, 3, 8, 8)] * 2
    # The pictures at 0.5 and 1.5, 2.5 and 3.5 s.
    levels = torch.cat(seen).float().mean((1, 3, 4, 5)).flatten()
    assert torch.allclose(levels, torch.tensor([45.0, 95.0, 145.0, 195.0]), atol=4)


def test_clips_with_too_few_pictures_are_refused(run: Callable[..., Run]) -> None:
    with pytest.raises(avcore.AVCoreError, match="has 2 pictures, 2 each, for 2 segments"):
        run("data.segments=2", "data.window_seconds=1", "data.window_margin=1")


def test_verify_takes_any_number_of_pictures_that_all_segments_can_have(world: ModuleType, tmp_path: Path) -> None:
    root = world.render("listen", tmp_path)
    for segments, expected in ((1, set()), (2, set()), (3, {"pictures for 3 segments"})):
        dataset = world.Files(ClipSettings(segments=segments, clip_seconds=2.0), root, None)
        findings = [
            one for found in verify(dataset, list_clips(dataset)[0], world.Listen(None), audio=False) for one in found
        ]
        assert {" ".join(finding.text.rstrip(".").split()[-4:]) for finding in findings} == expected


def test_a_segment_has_at_least_one_picture() -> None:
    assert ImageGeometry(size=4).shape == (3, 4, 4)
    with pytest.raises(ValueError, match="frames must be 1 or more, not 0"):
        ImageGeometry(size=4, frames=0)
