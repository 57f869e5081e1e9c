"""The features of a split as a file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import avcore
from avcore.errors import AVCoreError
from avcore.runs.features import write_features


def test_frozen_and_adapted_features_of_a_split(finished, tmp_path: Path) -> None:
    run, file = avcore.load_run(finished.run.directory), tmp_path / "new" / "test.safetensors"
    shapes = write_features(run, "test", file)
    with safe_open(file, "pt") as held:
        told, found = held.metadata(), {key: held.get_tensor(key) for key in held.keys()}  # noqa: SIM118
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == shapes
    clips = run.data.dataset.clips("test")
    assert json.loads(told["clips"]) == [clip.name for clip in clips]
    classes = json.loads(told["classes"])
    assert [classes[index] for index in found["labels"].tolist()] == [clip.group for clip in clips]
    streams = list(run.model.clips)
    assert {key for key in found if key.startswith(("frozen", "adapted"))} == {
        f"{kind}.{name}" for kind in ("frozen", "adapted") for name in streams
    }
    batch = next(iter(run.data.loader("test")))
    with torch.no_grad():
        adapted, frozen = run.model.features(batch), run.model.frozen_features(batch)
    count = int(batch.valid.sum())
    for name in streams:
        torch.testing.assert_close(found[f"adapted.{name}"][:count], adapted.streams[name].pooled[batch.valid])
        torch.testing.assert_close(found[f"frozen.{name}"][:count], frozen.streams[name].pooled[batch.valid])
    assert any(not torch.equal(found[f"adapted.{name}"], found[f"frozen.{name}"]) for name in streams)
    with pytest.raises(AVCoreError, match="exists already"):
        write_features(run, "test", file)
