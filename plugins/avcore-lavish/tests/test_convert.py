"""Checkpoints of the published code under avcore's names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from avcore import load_adapter
from avcore.backbones import state_faults
from avcore.cli.convert import convert as command
from avcore.errors import AVCoreError
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.states import trainable_state
from avcore.tasks import Batch
from avcore.testing.toys import make_batch
from avcore_lavish.convert import convert

Make = Callable[..., AVModel]

ADAPTER = {
    "latents": "my_tokens",
    "latent_gate": "gate_av",
    "gate": "gate",
    "down.weight": "down_sampler.weight",
    "up.weight": "up_sampler.weight",
    **{
        f"{ours}.{leaf}": f"{theirs}.{leaf}"
        for ours, theirs in (("norm_down", "bn1"), ("norm_up", "bn2"))
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    },
    **{
        f"{ours}.{leaf}": f"{theirs}.{leaf}"
        for ours, theirs in (("norm_before", "ln_before"), ("norm_post", "ln_post"))
        for leaf in ("weight", "bias")
    },
}
HEAD = {"hidden": "mlp_class", "output": "mlp_class_2"}


SWIN = {"visual": "small_swin", "recipe": "swin"}
SMALL_SOUND = ("audio.frames=32", "audio.mel_bins=32")


def official(model: AVModel, trunk: str = "ViT.v") -> dict[str, Tensor]:
    """The state of a model as the published code would save it."""
    made = {f"{trunk}.{key}": value for key, value in model.towers["visual"].weights().items()}
    made |= {f"{trunk}.head.weight": torch.zeros(9, 32), f"{trunk}.head.bias": torch.zeros(9)}
    if trunk == "swin":
        # timm 0.6 ends a stage with what timm 1.0 begins the next with, and keeps what follows from the sizes.
        for key in [key for key in made if "downsample" in key]:
            stage = int(key.split(".")[2])
            made[key.replace(f"layers.{stage}.", f"layers.{stage - 1}.")] = made.pop(key)
        made |= {
            "swin.layers.0.blocks.1.attn_mask": torch.zeros(4, 4, 4),
            "adapter_token_downsampler.0.weight": torch.ones(2),
        }
    for key, value in trainable_state(model).items():
        pieces = key.split(".")
        if pieces[0] == "head":
            made[f"{HEAD[pieces[1]]}.{pieces[2]}"] = value
            continue
        _, _, block, pair, stream, *rest = pieces
        kind = {"visual": "vis", "audio": "audio"}[stream]
        name = ADAPTER[".".join(rest)]
        made[f"{kind}_adapter_blocks_{pair}.{block}.{name}"] = value[..., None, None] if "sampler" in name else value
    return made


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_comes_back_under_our_names(make: Make, prefix: str) -> None:
    model = make(moved=True)
    made = convert({f"{prefix}{key}": value for key, value in official(model).items()}, make(meta=True))
    trunk = {key.removeprefix("visual."): made.pop(key) for key in list(made) if key.startswith("visual.")}
    assert state_faults(trainable_state(model), made) == []
    assert all(torch.equal(value, trainable_state(model)[key]) for key, value in made.items())
    assert state_faults(model.towers["visual"].weights(), trunk) == []


def test_a_checkpoint_of_a_swin_comes_back_under_our_names(make: Make) -> None:
    model = make(*SMALL_SOUND, **SWIN, moved=True)
    made = convert(official(model, "swin"), make(*SMALL_SOUND, **SWIN, meta=True))
    own = trainable_state(model) | {f"visual.{key}": value for key, value in model.towers["visual"].weights().items()}
    assert state_faults(own, made) == []
    assert all(torch.equal(value, own[key]) for key, value in made.items())


def test_unknown_keys_are_named(make: Make) -> None:
    strange = {
        "module.vis_adapter_blocks_p1.0.gate_tk": torch.ones(1),
        "vis_adapter_blocks_p3.0.gate": torch.ones(1),
        "swim.norm.weight": torch.ones(1),
        "mlp_class_3.weight": torch.ones(1),
    }
    made = convert(strange, make(meta=True))
    assert set(made) == {f"unknown.{key}" for key in strange}


def test_what_segmentation_never_uses_is_dropped(make: Make) -> None:
    key = "vis_adapter_blocks_p2.0.ln_before.weight"
    assert convert({key: torch.ones(32)}, make("parts.lavish.order=avs", meta=True)) == {}
    assert list(convert({key: torch.ones(32)}, make(meta=True))) == ["lavish.layers.0.p2.visual.norm_before.weight"]


def test_the_head_takes_the_streams_in_its_own_order(make: Make) -> None:
    weight = torch.cat([torch.zeros(512, 32), torch.ones(512, 32)], dim=1)
    for first, expected in (("audio", weight), ("visual", weight.flip(1))):
        made = convert({"mlp_class.weight": weight}, make(f"head.first={first}", meta=True))
        assert torch.equal(made["head.hidden.weight"], expected)


def test_where_tokens_are_averaged_the_reference_has_pictures_first(make: Make) -> None:
    weight = torch.cat([torch.zeros(512, 256), torch.ones(512, 256)], dim=1)
    for first, expected in (("visual", weight), ("audio", weight.flip(1))):
        model = make(*SMALL_SOUND, f"head.first={first}", **SWIN, meta=True)
        assert torch.equal(convert({"mlp_class.weight": weight}, model)["head.hidden.weight"], expected)


SMALL = ("--task", "ave", "--visual", "small", "--set", "data.segments=2", "--set", "data.clip_seconds=2")


def test_the_command_makes_an_adapter_that_computes_the_same(
    make: Make, batch: Batch, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avcore.runs.convert.load_registry", lambda: registry)
    source, file, out = make(moved=True).eval(), tmp_path / "best.pt", tmp_path / "adapter"
    torch.save(official(source), file)
    done = CliRunner().invoke(command, [str(file), "--from", "lavish", "-o", str(out), *SMALL], catch_exceptions=False)
    assert done.exit_code == 0
    again = make(f"visual.weights={out / 'backbone.safetensors'}").eval()
    load_adapter(out, again)
    assert torch.equal(again(batch)["logits"], source(batch)["logits"])


def test_the_command_makes_an_adapter_of_a_swin_that_computes_the_same(
    make: Make, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avcore.runs.convert.load_registry", lambda: registry)
    source, file, out = make(*SMALL_SOUND, **SWIN, moved=True).eval(), tmp_path / "best.pt", tmp_path / "adapter"
    torch.save(official(source, "swin"), file)
    sets = [word for setting in (*SMALL_SOUND, "data.segments=2", "data.clip_seconds=2") for word in ("--set", setting)]
    arguments = [str(file), "--from", "lavish", "-o", str(out), "--task", "ave", "--recipe", "swin"]
    done = CliRunner().invoke(command, [*arguments, "--visual", "small_swin", *sets], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    again = make(*SMALL_SOUND, f"visual.weights={out / 'backbone.safetensors'}", **SWIN).eval()
    load_adapter(out, again)
    data = make_batch(source)
    assert torch.equal(again(data)["logits"], source(data)["logits"])


def test_the_command_refuses_what_does_not_fit_and_lists_it(
    make: Make, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avcore.runs.convert.load_registry", lambda: registry)
    state, file, out = official(make()), tmp_path / "best.pt", tmp_path / "adapter"
    state["vis_adapter_blocks_p1.0.gate_tk"] = torch.ones(1)
    state["vis_adapter_blocks_p1.1.gate"] = torch.ones(2)
    del state["audio_adapter_blocks_p2.3.bn1.running_mean"]
    torch.save(state, file)
    done = CliRunner().invoke(command, [str(file), "--from", "lavish", "-o", str(out), *SMALL])
    assert isinstance(done.exception, AVCoreError)
    assert "vis_adapter_blocks_p1.0.gate_tk" in done.output
    assert "lavish.layers.1.p1.visual.gate" in done.output
    assert "lavish.layers.3.p2.audio.norm_down.running_mean" in done.output
    assert not out.exists()
