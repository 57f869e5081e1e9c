"""HTS-AT is timm's Swin Transformer behind a normalisation and a fold; published names load; it hears at 32 kHz."""

import json
import re
import wave
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blocks import unwrapped
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

import avcore_timm
from avcore.backbones import digest
from avcore.cli import main
from avcore.data.cache import ClipCache
from avcore.data.frontends import MelSpectrogram
from avcore.errors import AVCoreError
from avcore.runs.data import RunData
from avcore.shapes import WithoutValues
from avcore.specs import MelGeometry, Windows
from avcore.tasks import Clip, Dataset
from avcore.testing.golden import as_stored, assert_close, load_case
from avcore.testing.toys import make_batch, make_model
from avcore_timm import HTSAT_PRESETS
from avcore_timm.htsat import HTSAT, HTSATTower, build, htsat_keys
from avcore_timm.settings import HTSATSettings

RANDOM = HTSATSettings(weights="random")
SMALL = HTSAT_PRESETS["test_htsat"]


def make(preset: Mapping[str, Any] = SMALL, settings: HTSATSettings = RANDOM) -> HTSAT:
    torch.manual_seed(0)
    made = build(settings, name="small", preset=preset)
    if settings.weights == "random":
        for tensor in (*made.parameters(), made.bn0.running_mean, made.bn0.running_var):
            tensor.data.add_(torch.randn_like(tensor) * 0.05)
    # A cast makes the tables of the blocks anew from the weights.
    return made.float()


def tower_of(backbone: HTSAT, settings: HTSATSettings = RANDOM) -> HTSATTower:
    made = backbone.tower("audio", settings, segments=2)
    assert isinstance(made, HTSATTower)
    return made


def walk(tower: HTSATTower, x: Tensor) -> dict[str, Tensor]:
    """The tokens after every block and stage, from those of the embedding."""
    kept: dict[str, Tensor] = {}
    x = tower.enter(x)
    for layout in tower.layout.blocks:
        first = layout.index == sum(stage.depth for stage in tower.layout.stages[: layout.stage])
        if first and layout.stage:
            x = tower.merge(x, layout.stage)
        block = tower.block(layout.index)
        x = x + block.attention(x)[0]
        x = x + block.mlp(x)
        kept[f"block{layout.index}"] = kept[f"stage{layout.stage}_end"] = x
    kept["norm"] = tower.norm(x)
    return kept


def published(backbone: HTSAT, prefix: str = "sed_model.") -> dict[str, Tensor]:
    """The weights as the published checkpoint names them, and what else it holds."""
    tower = tower_of(backbone)
    named = {
        re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key): tensor
        for key, tensor in tower.weights().items()
    }
    others = {
        "spectrogram_extractor.stft.conv_real.weight": torch.zeros(5, 1, 8),
        "logmel_extractor.melW": torch.zeros(5, 4),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.int64),
        "layers.1.blocks.0.attn_mask": torch.zeros(4, 4, 4),
        "tscam_conv.weight": torch.zeros(3, 4, 2, 3),
        "head.weight": torch.zeros(3, 3),
        "head.bias": torch.zeros(3),
    }
    return {f"{prefix}{key}": tensor.detach().clone() for key, tensor in (named | others).items()}


def test_the_body_equals_timm_bit_for_bit_with_explicit_attention() -> None:
    settings = HTSATSettings(weights="random", attention="explicit")
    backbone = make(settings=settings)
    image = torch.randn(3, 100, 32)
    explicit = tower_of(backbone, settings)
    picture = explicit.fold(backbone.bn0(image))
    plain: Any = unwrapped(backbone.model)
    expected = plain.forward_features(picture[:, None])
    assert torch.equal(walk(explicit, explicit.embed(image))["norm"], expected.flatten(1, 2))
    fused = tower_of(make())
    assert_close(walk(fused, fused.embed(image))["norm"], expected.flatten(1, 2), 1e-5)
    assert torch.equal(fused.pool(expected.flatten(1, 2)), expected.mean((1, 2)))


def test_bands_are_normalised_as_a_batch_norm_does_in_evaluation() -> None:
    bands = make().bn0
    plain = torch.nn.BatchNorm2d(32)
    plain.load_state_dict(bands.state_dict())
    logs_MRF = torch.randn(2, 9, 32) * 20 - 50
    expected = plain.eval()(logs_MRF.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    torch.testing.assert_close(bands(logs_MRF), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_does_not_round_decibels() -> None:
    image = torch.randn(2, 100, 32) * 20 - 50
    backbone = make()
    picture = backbone.bn0(image)
    backbone.to(torch.bfloat16)
    assert backbone.model.norm.weight.dtype == torch.bfloat16
    assert torch.equal(backbone.bn0(image), picture)
    assert tower_of(backbone).embed(image).dtype == torch.bfloat16


def test_pieces_of_time_are_piled_up_along_frequency() -> None:
    tower = tower_of(make())
    bands = torch.randn(2, 128, 32)
    picture = tower.fold(bands)
    assert picture.shape == (2, 64, 64)
    assert torch.equal(picture[1, 32 + 5, 7], bands[1, 64 + 7, 5])
    shorter = tower.fold(bands[:, :127])
    # Both ends stay where they are.
    torch.testing.assert_close(shorter[:, :32, 0], bands[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shorter[:, 32:, -1], bands[:, 126], rtol=1e-5, atol=1e-5)


def test_sound_longer_than_the_picture_is_refused() -> None:
    with pytest.raises(AVCoreError, match=r"129 frames does not fit 'small', which holds 128 \(1\.28 s\)"):
        tower_of(make()).embed(torch.zeros(1, 129, 32))
    with pytest.raises(AVCoreError, match=r"131 frames does not fit .* or audio\.repeat_seconds"):
        tower_of(make(), HTSATSettings(repeat_seconds=1.3))


def test_sound_is_repeated_as_in_training_unless_the_setting_says_otherwise() -> None:
    backbone = make()
    assert tower_of(backbone).geometry.repeat_seconds == 1
    assert tower_of(backbone, HTSATSettings(repeat_seconds=0.5)).geometry.repeat_seconds == 0.5
    assert tower_of(backbone, HTSATSettings(repeat_seconds=0)).geometry.repeat_seconds == 0


def test_the_layout_is_that_of_the_paper_and_so_is_the_count() -> None:
    with WithoutValues():
        backbone = build(HTSATSettings(), name="htsat", preset=HTSAT_PRESETS["htsat"])
        tower = tower_of(backbone, HTSATSettings(repeat_seconds=5.0))
    stages = tower.layout.stages
    assert [(stage.width, stage.depth, stage.heads, stage.grid) for stage in stages] == [
        (96, 2, 4, (64, 64)),
        (192, 2, 8, (32, 32)),
        (384, 6, 16, (16, 16)),
        (768, 2, 32, (8, 8)),
    ]
    assert [stage.window for stage in stages] == [(8, 8), (8, 8), (8, 8), None]
    assert tower.layout.taps == (1, 3, 9, 11)
    assert tower.geometry == MelGeometry(repeat_seconds=5.0)
    assert tower.block(0).neutral_row_bias == 0
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count == 27_534_488
    spectrogram = 2 * 513 * 1024 + 513 * 64
    classifier = 527 * (768 * 2 * 3 + 1) + 527 * (527 + 1)
    assert count + spectrogram + classifier == 31_325_143


@pytest.mark.parametrize("prefix", ["sed_model.", "", "model.sed_model.", "net."])
def test_a_published_checkpoint_loads(tmp_path: Path, prefix: str) -> None:
    first = make()
    file = tmp_path / "published.ckpt"
    torch.save({"state_dict": published(first, prefix), "epoch": 3}, file)
    loaded = make(settings=HTSATSettings(weights=str(file)))
    own = tower_of(loaded).weights()
    assert own.keys() == tower_of(first).weights().keys()
    assert all(torch.equal(own[key], tensor) for key, tensor in tower_of(first).weights().items())
    assert loaded.notices == ()
    image = torch.randn(1, 50, 32)
    assert torch.equal(tower_of(loaded).embed(image), tower_of(first).embed(image))


def test_the_names_of_the_tower_load_too(tmp_path: Path) -> None:
    first = make()
    file = tmp_path / "own.safetensors"
    save_file({key: tensor.detach().clone() for key, tensor in tower_of(first).weights().items()}, file)
    own = tower_of(make(settings=HTSATSettings(weights=str(file)))).weights()
    assert all(torch.equal(own[key], tensor) for key, tensor in tower_of(first).weights().items())


def test_avcore_convert_writes_a_published_checkpoint_under_our_names(tmp_path: Path) -> None:
    first, file, out = make(), tmp_path / "HTSAT.ckpt", tmp_path / "weights"
    torch.save({"state_dict": published(first)}, file)
    done = CliRunner().invoke(main, ["convert", "--from", "test_htsat", str(file), "-o", str(out)])
    assert done.exit_code == 0, done.output
    written = out / "audio_backbone.safetensors"
    assert f"--set audio.weights={written}" in done.stdout
    for key, tensor in tower_of(first).weights().items():
        assert torch.equal(load_file(written)[key], tensor), key
    assert digest(make(settings=HTSATSettings(weights=str(written)))) == digest(first)
    torch.save({"state_dict": published(first) | {"sed_model.extra": torch.zeros(1)}}, file)
    done = CliRunner().invoke(main, ["convert", "--from", "test_htsat", str(file), "-o", str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "unexpected extra" in done.stderr
    assert not (tmp_path / "other").exists()


def test_every_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    tensors = published(make())
    tensors["sed_model.layers.0.blocks.0.norm9.weight"] = tensors.pop("sed_model.layers.0.blocks.0.norm1.weight")
    tensors["sed_model.bn0.weight"] = torch.ones(64)
    file = tmp_path / "published.ckpt"
    torch.save({"state_dict": tensors}, file)
    with pytest.raises(AVCoreError) as raised:
        make(settings=HTSATSettings(weights=str(file)))
    text = str(raised.value)
    assert "missing layers.0.blocks.0.norm1.weight" in text
    assert "unexpected layers.0.blocks.0.norm9.weight" in text
    assert "bn0.weight is (64,) instead of (32,)" in text


def test_weights_must_be_named_and_random_ones_are_announced() -> None:
    with pytest.raises(AVCoreError, match=r"--set audio\.weights=PATH \(HTSAT_AudioSet_Saved_1\.ckpt"):
        build(HTSATSettings(), name="htsat", preset=SMALL)
    assert make().notices == ("'small' runs on random weights.",)


def test_pictures_are_refused() -> None:
    with pytest.raises(AVCoreError, match=r"'test_htsat' serves the audio stream only: .* with --visual\."):
        make_model(avcore_timm, "test_htsat", sets=("visual.weights=random",))


@pytest.mark.golden
@pytest.mark.parametrize("sound", ["clip", "segment"], ids=lambda sound: f"c1_htsat_mel-{sound}")
def test_golden_front_end(sound: str) -> None:
    tensors, meta = load_case("c1_htsat_mel")
    prefix = "weights/bn0."
    frames, bins = tensors["out/segment_logmel"].shape
    seconds = (frames - 1) * MelGeometry.hop / MelGeometry.rate
    narrow = {"width": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1)}
    preset = {**HTSAT_PRESETS["htsat"], **narrow, "mel_bins": bins, "side": len(tensors["out/segment_img"])}
    backbone = make({**preset, "seconds": seconds})
    geometry = tower_of(backbone).geometry
    assert geometry == MelGeometry(mel_bins=bins, repeat_seconds=seconds)
    length = max(seconds, len(tensors["in/clip"]) / geometry.rate)
    front = MelSpectrogram(geometry, Windows(length=length, margin=length), segments=1)
    backbone.bn0.load_state_dict(
        {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}, strict=False
    )
    if sound == "clip":
        front = MelSpectrogram(replace(geometry, repeat_seconds=None), front.windows, segments=1)
        logs_MRF = front(tensors["in/clip"][None].double())
    else:
        logs_MRF = front(tensors["in/segment_1s"][None].double())
    bands_MRF = backbone.bn0(logs_MRF)
    picture_MYX = tower_of(backbone).fold(bands_MRF)
    found = {"bn0": bands_MRF, "img": picture_MYX}
    for name, tensor in found.items():
        key = f"out/{sound}_{name}"
        tolerance = max(5e-5, 2 * meta["float32_vs_float64"][key]["rel_to_max"])
        reference = tensors[key][None]
        assert_close(as_stored(tensor, reference, meta["outputs"]), reference, tolerance, floor=0)


@pytest.mark.golden
@pytest.mark.parametrize("case", ["c2_htsat_body"])
def test_golden_body(case: str) -> None:
    """All but the published classification outputs, whose layers are left out."""
    tensors, meta = load_case(case)
    size = meta["config"]
    preset = {
        "mel_bins": size["mel"],
        "side": size["spec"],
        "width": size["embed"],
        "depths": size["depths"],
        "heads": size["heads"],
        "window": size["win"],
    }
    backbone = make(preset)
    given = {key.removeprefix("weights/"): tensor for key, tensor in tensors.items() if key.startswith("weights/")}
    renamed = htsat_keys(given)
    own = tower_of(backbone).weights()
    assert renamed.keys() == own.keys()
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(renamed[key])
    backbone.double()
    tower = tower_of(backbone)
    embedded = backbone.model.patch_embed(tensors["in/img"].double()).flatten(1, 2)
    kept = walk(tower, embedded)
    found = {"embed": embedded, **kept}
    for stage, depth in enumerate(size["depths"]):
        first = sum(size["depths"][:stage])
        found |= {f"stage{stage}_block{index}": kept[f"block{first + index}"] for index in range(depth)}
    left_out = {"clipwise_output", "framewise_output", "latent_output"}
    compared = {key.removeprefix("out/") for key in tensors if key.startswith("out/")} - left_out
    assert {"embed", "norm", *(f"stage{stage}_end" for stage in range(len(size["depths"])))} <= compared
    for name in compared:
        reference = tensors[f"out/{name}"]
        tolerance = max(5e-5, 2 * meta["float32_vs_float64"][f"out/{name}"]["rel_to_max"])
        assert_close(as_stored(found[name], reference, meta["outputs"]), reference, tolerance, floor=0)


def test_a_golden_body_of_other_sizes_is_compared_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The case is written by the backbone itself: what is tested here is that its sizes are read."""
    size = {"spec": 64, "mel": 32, "embed": 8, "depths": [1, 2, 3, 1], "heads": [1, 2, 2, 4], "win": 4}
    preset = {"mel_bins": 32, "side": 64, "width": 8, "depths": size["depths"], "heads": size["heads"], "window": 4}
    backbone = make(preset)
    tensors = {f"weights/{key}": tensor for key, tensor in published(backbone, "").items()}
    tensors["in/img"] = torch.randn(2, 1, 64, 64)
    tower = tower_of(backbone)
    embedded = backbone.model.patch_embed(tensors["in/img"]).flatten(1, 2)
    kept = walk(tower, embedded)
    out = {"embed": embedded[:1, ::5], "norm": kept["norm"], "stage2_block2": kept["block5"][:1]}
    out |= {f"stage{stage}_end": kept[f"stage{stage}_end"][:, :: 4 - stage] for stage in range(4)}
    tensors |= {f"out/{name}": tensor for name, tensor in out.items()}
    (tmp_path / "c2_other.json").write_text(
        json.dumps(
            {
                "config": size,
                "outputs": "embed: every 5th token",
                "float32_vs_float64": {f"out/{name}": {"rel_to_max": 1e-5} for name in out},
            }
        )
    )
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, tmp_path / "c2_other.safetensors")
    monkeypatch.setenv("AVCORE_GOLDEN", str(tmp_path))
    test_golden_body("c2_other")
    tensors["out/norm"] = tensors["out/norm"] * 1.001
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, tmp_path / "c2_other.safetensors")
    with pytest.raises(AssertionError, match="differs by"):
        test_golden_body("c2_other")


# --------------------------------------------------------------------------------------- beside another backbone


def test_it_runs_beside_a_vit() -> None:
    model = make_model(avcore_timm, "test_vit", sets=("audio.backbone=test_htsat", "audio.weights=random"))
    assert model.sound == MelGeometry(mel_bins=32, repeat_seconds=1.0)
    assert model.image is not None
    features = model.features(make_batch(model))
    assert features.visual is not None
    assert features.audio is not None
    assert features.visual.pooled.shape == (2, 2, 64)
    assert features.audio.pooled.shape == (2, 2, 128)
    assert [tuple(one.shape[1:]) for one in features.audio.maps] == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)]
    assert [(entry.visual, entry.audio) for entry in model.plan if entry.paired] != []
    assert model.notices == ("'test_vit' runs on random weights.", "'test_htsat' runs on random weights.")


class OneSound(Dataset):
    """A data set of one clip of 2 s, a tone at 8 kHz."""

    segments = 2
    windows = Windows(length=1.0, margin=1.0)
    splits = ("train",)

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tone.wav"
        tone = np.sin(np.arange(16000) / 3) * 9999
        with wave.open(str(self.file), "wb") as out:
            out.setparams((1, 2, 8000, 0, "NONE", ""))
            out.writeframes(tone.astype("<i2").tobytes())

    def clips(self, split: str) -> Sequence[Clip]:
        return [Clip(name="tone", frames=(), audio=self.file, seconds=2.0)]

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {}


def test_its_rate_reaches_the_loader_and_the_clip_cache(tmp_path: Path) -> None:
    model = make_model(
        avcore_timm,
        "test_vit",
        streams="audio",
        sets=(
            "audio.backbone=test_htsat",
            "audio.weights=random",
            f"data.cache={tmp_path}",
            "data.workers=0",
            "train.batch_size=1",
        ),
    )
    assert model.sound is not None
    dataset = OneSound(tmp_path)
    loader = RunData(model.config, model, dataset, tmp_path).loader("train", train=True)
    (batch,) = loader
    assert batch.waveform is not None
    assert batch.waveform.shape == (1, 64000)
    assert model.features(batch).audio is not None
    # The same clip at the rate of another backbone is another entry of the same cache.
    other = ClipCache(tmp_path, segments=2)
    assert other.audio(dataset.clips("train")[0], 16000).shape == (32000,)
    assert other.decoded == 1
    assert other.audio(dataset.clips("train")[0], 32000).shape == (64000,)
    assert other.decoded == 1
