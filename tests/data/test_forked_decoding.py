"""Loader processes are forks of one that has decoded with PyAV and computed with torch: they decode the same."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import pytest
import torch
from torch import Tensor

from avcore.data.loader import ClipLoader
from avcore.specs import FilterBankGeometry, ImageGeometry, Windows
from avcore.tasks import Batch, Clip, Dataset

CLIPS = Path(os.environ.get("AVCORE_TEST_DATA", "/nowhere")) / "clips"


class Videos(Dataset):
    """Every video of a folder, told of the threads of the process that reads it."""

    segments = 2
    windows = Windows(length=1.0, margin=1.0)
    splits = ("train",)

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def clips(self, split: str) -> Sequence[Clip]:
        return [Clip(name=path.stem, frames=path, audio=None, seconds=2.0) for path in self.paths]

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {"threads": torch.tensor(torch.get_num_threads()), "process": torch.tensor(os.getpid())}


def batches(dataset: Videos, cache: Path, workers: int) -> list[Batch]:
    loader = ClipLoader(
        dataset,
        "train",
        image=ImageGeometry(size=64, mean=(0.5,) * 3, std=(0.5,) * 3),
        audio=FilterBankGeometry(rate=16000, mel_bins=8, frames=16, shift_ms=10.0),
        batch_size=2,
        shuffle=False,
        seed=0,
        workers=workers,
        cache=cache,
    )
    try:
        return list(loader)
    finally:
        loader.close()


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable[..., Path]) -> list[Path]:
    """Real ones where there are some, and four codecs of our own."""
    made = [make_video(tmp_path / f"own{number}.{kind}") for number, kind in enumerate(("mp4", "mkv", "webm", "avi"))]
    return [*made, *sorted(CLIPS.glob("*.mp4"))]


def test_four_forks_decode_what_one_process_does(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a run: decoders and thread pools are there before the processes are forked.
    with av.open(str(videos[0])) as container:
        container.streams.video[0].thread_type = "AUTO"
        next(container.decode(video=0))
        threads = torch.get_num_threads()
        torch.set_num_threads(max(2, threads))
        torch.randn(300, 300) @ torch.randn(300, 300)
        try:
            alone = batches(Videos(videos), tmp_path / "alone", 0)
            forked = batches(Videos(videos), tmp_path / "forked", 4)
            again = batches(Videos(videos), tmp_path / "forked", 4)
        finally:
            torch.set_num_threads(threads)
    for other in (forked, again):
        processes = {int(one) for batch in other for one in batch.targets["process"]}
        assert len(processes) == min(4, len(other))
        assert os.getpid() not in processes
        for mine, theirs in zip(alone, other, strict=True):
            assert mine.names == theirs.names
            assert (theirs.targets["threads"] == 1).all()
            for one, same in ((mine.frames, theirs.frames), (mine.waveform, theirs.waveform)):
                assert one is not None
                assert same is not None
                assert torch.equal(one, same)
    shutil.rmtree(tmp_path / "forked")
