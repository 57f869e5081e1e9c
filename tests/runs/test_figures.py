"""t-SNE and its numbers, of features whose classes are known to lie apart or not."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from avcore.errors import AVCoreError
from avcore.runs.figures import draw_features


def write(file: Path) -> Path:
    """20 clips of two classes: together when frozen, apart when adapted."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 2
    frozen = torch.randn(20, 2, 4, generator=generator)
    told = {"split": "test", "clips": json.dumps([f"<b>{n}" for n in range(20)]), "classes": '["<script>", "dog"]'}
    adapted = frozen + 20 * labels[:, None, None]
    save_file({"frozen.visual": frozen, "adapted.visual": adapted, "labels": labels}, file, metadata=told)
    return file


def test_frozen_beside_adapted(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    file = write(tmp_path / "f.safetensors")
    numbers = draw_features(file, tmp_path / "a")
    assert list(numbers) == ["frozen.visual", "adapted.visual"]
    assert numbers["adapted.visual"]["purity"] == 1
    assert numbers["adapted.visual"]["silhouette"] > 0.8 > 0.3 > numbers["frozen.visual"]["silhouette"]
    drawn = (tmp_path / "a" / "tsne.svg").read_text()
    assert drawn.count("<circle") == 40
    assert "<script" not in drawn
    draw_features(file, tmp_path / "b")
    assert (tmp_path / "b" / "tsne.svg").read_text() == drawn
    with pytest.raises(AVCoreError, match="exists already"):
        draw_features(file, tmp_path / "a")
    (tmp_path / "no.safetensors").write_bytes(b"")
    with pytest.raises(AVCoreError, match="holds no features"):
        draw_features(tmp_path / "no.safetensors", tmp_path / "c")


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(AVCoreError, match=r"pip install 'avcore\[figures\]'"):
        draw_features(tmp_path / "f.safetensors", tmp_path / "out")
