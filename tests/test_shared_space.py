"""Pictures of avcore-timm and sentences of avcore-clip meet in one space, as in open_clip's own model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avcore import compat
from avcore.backbones import Tower, digest
from avcore.errors import AVCoreError
from avcore_clip.settings import TextSettings
from avcore_clip.text import ClipTextTower
from avcore_clip.text import build as build_text
from avcore_timm.settings import ViTSettings
from avcore_timm.vit import build as build_vit

compat.install()

WIDTH, SHARED = 32, 12
TEXT_CONFIG = {
    "embed_dim": SHARED,
    "quick_gelu": True,
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
VISION = {"image_size": 64, "layers": 3, "width": WIDTH, "patch_size": 16, "head_width": 8}
PICTURES: dict[str, Any] = {
    "model": "vit_base_patch16_clip_quickgelu_224",
    "arguments": {"img_size": 64, "embed_dim": WIDTH, "depth": 3, "num_heads": 4},
    "shared": SHARED,
}


@pytest.fixture(scope="module")
def reference() -> Any:
    """open_clip's CLIP, every weight random."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    made = CLIP(vision_cfg=VISION, **TEXT_CONFIG)  # type: ignore[arg-type]
    made.load_state_dict({key: value + torch.randn_like(value) * 0.05 for key, value in made.state_dict().items()})
    return made.eval()


@pytest.fixture(scope="module")
def file(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint in open_clip's layout, for both."""
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file(dict(reference.state_dict()), path)
    return path


def pictures(weights: Path | str, *, projection: bool = True, preset: dict[str, Any] | None = None) -> Tower:
    settings = ViTSettings(weights=str(weights), projection=projection)
    backbone = build_vit(settings, name="small", preset=PICTURES if preset is None else preset)
    return backbone.double().tower("visual", settings, 1)


def sentences(weights: Path | str) -> ClipTextTower:
    settings = TextSettings(weights=str(weights))
    tower = build_text(settings, name="small", preset={"config": TEXT_CONFIG}).double().tower("text", settings, 1)
    assert isinstance(tower, ClipTextTower)
    return tower


def through(tower: Tower, given: Tensor) -> Tensor:
    x = tower.enter(tower.embed(given))
    for index in range(tower.layout.depth):
        x = x + tower.block(index).attention(x)[0]
        x = x + tower.block(index).mlp(x)
    return tower.norm(x)


def test_cosines_of_pictures_and_sentences_are_open_clips(reference: Any, file: Path) -> None:
    seeing, reading = pictures(file), sentences(file)
    assert seeing.layout.shared == reading.layout.shared == SHARED
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ids = torch.tensor([[49406, 320, 1929, 49407] + [0] * 12, [49406, 2443, 49407] + [0] * 13])
    exact = reference.double()
    found = seeing.project(seeing.pool(through(seeing, image)))
    torch.testing.assert_close(found, exact.encode_image(image), rtol=0, atol=1e-10)
    said = reading.project(reading.pool(through(reading, ids), ids))
    torch.testing.assert_close(said, exact.encode_text(ids), rtol=0, atol=1e-10)
    cosines = torch.nn.functional.normalize(found, dim=-1) @ torch.nn.functional.normalize(said, dim=-1).T
    expected = exact.get_logits(image, ids)[0] / exact.logit_scale.exp()
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-10)


def test_the_projection_is_a_frozen_weight(file: Path) -> None:
    tower, without = pictures(file), pictures(file, projection=False)
    assert set(tower.weights()) - set(without.weights()) == {"head.weight", "head.bias"}
    more = sum(p.numel() for p in tower.parameters()) - sum(p.numel() for p in without.parameters())
    assert more == (WIDTH + 1) * SHARED
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    before = digest(tower)
    with torch.no_grad():
        tower.weights()["head.weight"][0, 0] += 1
    assert digest(tower) != before


def test_without_being_asked_for_there_is_none(file: Path) -> None:
    tower = pictures(file, projection=False)
    assert tower.layout.shared is None
    with pytest.raises(NotImplementedError, match=r"layout\.shared is None"):
        tower.project(torch.zeros(1, WIDTH))


def test_a_file_without_it_is_refused(file: Path, tmp_path: Path) -> None:
    bare = {key: value.float().contiguous() for key, value in pictures(file, projection=False).weights().items()}
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(AVCoreError, match=r"missing head\.weight"):
        pictures(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("vit_base_patch16_clip_quickgelu_224.openai", 512),
        ("vit_large_patch14_clip_224.laion2b", 768),
        ("vit_base_patch16_224.augreg_in21k", None),
        ("vit_base_patch16_clip_224.openai_ft_in1k", None),
        ("vit_base_patch16_siglip_224.webli", None),
    ],
)
def test_timms_names(name: str, shared: int | None) -> None:
    settings = ViTSettings(projection=True)
    with torch.device("meta"):
        if shared is None:
            with pytest.raises(AVCoreError, match=f"'{name}' has no map into a space shared with text"):
                build_vit(settings, name=name, preset=None)
            return
        tower = build_vit(settings, name=name, preset=None).tower("visual", settings, 10)
    assert tower.layout.shared == shared
