"""CoPL where widths grow from stage to stage: Swin-V2 for both streams, or Swin-V2 beside HTS-AT."""

import pytest
import torch
from torch import Tensor

import avcore_ave
import avcore_avs
import avcore_copl
import avcore_timm
from avcore import BackboneSpec, hookimpl
from avcore.assemble import assemble
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.errors import AVCoreError
from avcore.injection import BlockView, PromptLayer
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.states import parameter_groups
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_batch, make_model
from avcore_timm import HTSAT_PRESETS
from avcore_timm.settings import HTSATSettings, SwinSettings

# ------------------------------------------------------------------------------------------------------------ counts

MODULES = {
    "avcore-timm": avcore_timm,
    "avcore-copl": avcore_copl,
    "avcore-ave": avcore_ave,
    "avcore-avs": avcore_avs,
}
# Reading C of the published counts (docs/methods/copl.md).
SHARED = {"M^g": 7_680, "M^f": 360_960, "latents": 122_880, "bank": 61_440, "F": 1_186_176}
UNSHARED = {"M^g": 5_760, "M^f": 132_480, "latents": 92_160, "bank": 46_080, "F": 447_168}


def published(task: str, recipe: str, *sets: str) -> AVModel:
    """A model as its recipe says, without weights."""
    registry = Registry.from_modules(MODULES)
    resolved = resolve_config(registry, method="copl", task=task, recipe=recipe, sets=sets, need_data=False)
    return assemble(resolved.config, registry, meta=True)


def sizes(model: AVModel) -> dict[str, int]:
    """Parameters of CoPL, piece by piece."""
    marks = {"global_rows": "M^g", "frame_rows": "M^f", "latent_": "latents", "bank.": "bank", "_to_": "F"}
    found = dict.fromkeys(marks.values(), 0)
    for name, parameter in parameter_groups(model)["parts"]:
        (kind,) = [kind for mark, kind in marks.items() if mark in name]
        found[kind] += parameter.numel()
    return found


@pytest.mark.parametrize(
    ("recipe", "expected", "total"), [("swin", SHARED, 1_739_136), ("unshared", UNSHARED, 723_648)]
)
def test_integers_of_reading_c_with_ave_lengths(recipe: str, expected: dict[str, int], total: int) -> None:
    found = sizes(published("ave", recipe))
    assert found == expected
    assert sum(found.values()) == total  # 1.74 M and 0.72 M


@pytest.mark.parametrize(
    ("recipe", "expected", "total"), [("swin", SHARED, 1_804_416), ("unshared", UNSHARED, 772_608)]
)
def test_integers_of_reading_c_with_avqa_lengths(recipe: str, expected: dict[str, int], total: int) -> None:
    found = sizes(published("ave", recipe, "parts.copl.rows.length=30", "parts.copl.coupling.length=30"))
    assert found == {**expected, "M^g": expected["M^g"] * 3 // 2, "latents": expected["latents"] * 3 // 2}
    assert sum(found.values()) == total  # 1.80 M and 0.77 M


@pytest.mark.parametrize(
    ("recipe", "expected", "total"), [("swin", SHARED, 1_623_936), ("unshared", UNSHARED, 706_368)]
)
def test_integers_of_reading_c_with_avs_lengths(recipe: str, expected: dict[str, int], total: int) -> None:
    """The four projections of the head, 1,094,656 more, are counted with them in the paper."""
    found = sizes(published("avs", recipe, "data.segments=5"))
    assert found == {
        **expected,
        "M^g": expected["M^g"] * 3 // 2,
        "M^f": expected["M^f"] // 2,
        "latents": expected["latents"] * 3 // 2,
    }
    assert sum(found.values()) == total  # 1.62 M and 0.71 M; with the projections 2.72 M and 1.80 M


@pytest.mark.parametrize(
    ("knob", "expected"),
    [
        # "C with M^f also in the 12 unpaired visual blocks": 0.82 M
        ("rows.frame_scope=block", {"M^f": 224_640}),
        ("rows.frame_scope=stage", {"M^f": 43_200}),
        ("rows.global_scope=stage", {"M^g": 86_400}),
        ("coupling.bank_scope=all", {"bank": 23_040}),
        ("coupling.reduction=8", {"F": 889_728}),
        ("coupling.unit=stages", {"latents": 230_400, "bank": 115_200, "F": 786_144}),
    ],
)
def test_every_knob_has_the_count_it_should(knob: str, expected: dict[str, int]) -> None:
    assert sizes(published("ave", "unshared", f"parts.copl.{knob}")) == {**UNSHARED, **expected}


# ---------------------------------------------------------------------------------------------------------- behaviour


class SmallSwin:
    """A Swin-V2: 16, 4, 1 and 1 windows of 2 x 2 tokens, widths 16 to 128, 6 blocks. And a narrower HTS-AT."""

    @hookimpl
    def avcore_backbones(self) -> list[BackboneSpec]:
        sizes = {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 3, 1), "num_heads": (2, 2, 2, 2)}
        preset = {"model": "swinv2_tiny_window8_256", "arguments": sizes}
        return [
            BackboneSpec(
                name="small_swins",
                build="avcore_timm.swin:build_v2",
                config=SwinSettings,
                presets={"small_swin": preset},
            ),
            BackboneSpec(
                name="small_htsats",
                build="avcore_timm.htsat:build",
                config=HTSATSettings,
                presets={"small_htsat": {**HTSAT_PRESETS["test_htsat"], "width": 12}},
                streams=("audio",),
            ),
        ]


ROWS = ("parts.copl.rows.length=3",)
SETS = (*ROWS, "parts.copl.coupling.length=3", "parts.copl.coupling.last=2")
SMALL_SOUND = ("audio.frames=32", "audio.mel_bins=32")
OWN_SOUND = ("audio.backbone=small_htsat", "audio.weights=random")
BOTH = ("copl.rows", "copl.coupling")


def make(*sets: str, listed: tuple[str, ...] = BOTH) -> AVModel:
    others = {"avcore-timm": avcore_timm, "avcore-copl": avcore_copl}
    return make_model(SmallSwin(), "small_swin", listed=listed, others=others, sets=sets, on_meta_first=False)


def view(model: AVModel, stream: str, index: int, carried: torch.Tensor | None = None) -> BlockView:
    block = model.towers[stream].block(index)
    part, tokens = model.parts[f"copl.rows.{stream}"], torch.empty(0)
    return BlockView(B=1, T=2, part=part, block=block, project=None, tokens=tokens, carried=carried)


def rows_layer(model: AVModel, index: int) -> PromptLayer:
    layer = model.parts["copl.rows.visual"].layers[str(index)]
    assert isinstance(layer, PromptLayer)
    return layer


@pytest.mark.parametrize("index", range(6))
def test_every_block_sees_the_global_rows_in_its_own_width(index: int) -> None:
    model = make(*SETS, *SMALL_SOUND)
    given = model.parts["copl.rows.visual"].global_rows["input"]
    assert given.shape == (3, 16)
    width = model.towers["visual"].layout.blocks[index].width
    rows = rows_layer(model, index).attention(torch.zeros(2, 4, width), view(model, "visual", index)).rows
    assert not isinstance(rows, Tensor | None)
    assert [piece.shape for piece in rows] == [(3, width), (2, 1, width)]
    merged = given
    for stage in range(1, model.towers["visual"].layout.blocks[index].stage + 1):
        # A row stands for the four tokens that are merged.
        merging = model.towers["visual"].trunk.model.layers[stage].downsample
        merged = merging(merged[:, None, None].expand(-1, 2, 2, -1)).flatten(0, 2)
    torch.testing.assert_close(rows[0], merged)


def test_carried_rows_are_lifted_where_their_owner_finds_them_narrow() -> None:
    model = make(*SETS, *SMALL_SOUND, "parts.copl.rows.global_flow=carry")
    first = rows_layer(model, 0).attention(torch.zeros(2, 64, 16), view(model, "visual", 0))
    assert first.carry is not None
    assert first.carry.shape == (3, 16)
    carried = torch.randn(2, 3, 16)
    next_stage = view(model, "visual", 1, carried)
    second = rows_layer(model, 1).attention(torch.zeros(2, 16, 32), next_stage)
    assert second.carry is not None
    assert torch.equal(second.carry, next_stage.lift(carried))
    assert second.carry.shape == (2, 3, 32)


def test_rows_act_in_every_window() -> None:
    """What rows change in block 0 reaches every token of all 16 windows."""
    model, bare = make(*ROWS, *SMALL_SOUND, listed=("copl.rows",)), make(*SMALL_SOUND, listed=())
    x = {stream: torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(3)) for stream in model.towers}
    at = view(model, "visual", 0)
    moved = model.steps[0](dict(x), {})[0]["visual"] - bare.steps[0](dict(x), {})[0]["visual"]
    windows = at.windows(moved)
    assert windows.shape == (32, 4, 16)
    assert (windows.abs().amax(-1) > 1e-6).all()


def test_the_same_tokens_in_every_window_see_the_same_rows() -> None:
    model = make(*ROWS, *SMALL_SOUND, listed=("copl.rows",))
    at = view(model, "visual", 0)
    one = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(3))
    x_MND = at.unwindows(one.expand(32, -1, -1))
    made = model.steps[0]({"visual": x_MND, "audio": x_MND}, {})[0]["visual"]
    for frame in at.windows(made).unflatten(0, (2, 16)):
        torch.testing.assert_close(frame, frame[:1].expand_as(frame))


@pytest.mark.parametrize("flow", ["reinsert", "carry"])
@pytest.mark.parametrize("sound", [SMALL_SOUND, OWN_SOUND], ids=["shared", "unshared"])
def test_every_parameter_trains(flow: str, sound: tuple[str, ...]) -> None:
    model = make(*SETS, *sound, f"parts.copl.rows.global_flow={flow}").train()
    data = make_batch(model)
    before = digest(model.towers)
    out = model(data)
    model.loss(out, data).backward()
    for name, parameter in parameter_groups(model)["parts"]:
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert digest(model.towers) == before
    # Streams of unequal width have nothing in common that could be compared without parameters.
    assert ("copl.coupling.consistency" in model.losses(out, data)) == (sound == SMALL_SOUND)


@pytest.mark.parametrize("flow", ["reinsert", "carry"])
def test_a_pair_compiles_with_equal_results(flow: str) -> None:
    model = make(*SETS, *SMALL_SOUND, f"parts.copl.rows.global_flow={flow}")
    x = tokens_for(model, -1)
    made, expected = capture(model.steps[-1], x).output, model.steps[-1](dict(x), {})
    for stream in x:
        torch.testing.assert_close(made[0][stream], expected[0][stream])


def test_equal_streams_are_compared_token_by_token() -> None:
    model = make(*SETS, *SMALL_SOUND)
    data = make_batch(model)
    out = model(data)
    visual, audio = out.features.stream("visual").tokens, out.features.stream("audio").tokens
    found = model.losses(out, data)["copl.coupling.consistency"]
    torch.testing.assert_close(found, 0.005 * (visual - audio).square().mean())


def test_where_a_stream_rests_the_other_runs_without_rows() -> None:
    model = make(*SETS, *OWN_SOUND)
    assert [(entry.visual, entry.audio) for entry in model.plan] == [(0, 0), (1, 1), (2, 2), (3, None), (4, 3), (5, 4)]
    assert list(model.parts["copl.rows.visual"].layers) == ["0", "1", "2", "4", "5"]
    assert list(model.parts["copl.rows.audio"].layers) == ["0", "1", "2", "3", "4"]
    assert list(model.parts["copl.coupling"].layers) == ["4", "5"]
    everywhere = make(*SETS, *OWN_SOUND, "parts.copl.rows.frame_scope=block")
    assert len(everywhere.parts["copl.rows.visual"].layers) == 6


def test_one_bank_for_layers_of_different_widths_is_refused() -> None:
    with pytest.raises(AVCoreError, match="bank_scope=all spans blocks of different widths here: use bank_scope=layer"):
        make(*SETS, *SMALL_SOUND, "parts.copl.coupling.bank_scope=all")


def test_rows_have_the_neutral_bias_of_the_backbone_unless_told() -> None:
    model = make(*ROWS, *SMALL_SOUND, listed=("copl.rows",))
    data = make_batch(model)

    def tokens(*sets: str) -> torch.Tensor:
        return make(*ROWS, *SMALL_SOUND, *sets, listed=("copl.rows",)).features(data).stream("visual").tokens

    neutral = model.features(data).stream("visual").tokens
    assert torch.equal(tokens("parts.copl.rows.row_bias=8.0"), neutral)
    assert not torch.equal(tokens("parts.copl.rows.row_bias=0.0"), neutral)


@pytest.mark.parametrize("name", ["rows", "coupling"])
def test_a_low_bias_silences_rows_and_can_be_learned(name: str) -> None:
    listed, last = (f"copl.{name}",), (("last=2",) if name == "coupling" else ())
    quiet, learned, loud = (
        make(*SMALL_SOUND, *(f"parts.copl.{name}.{one}" for one in (*given, *last)), listed=listed)
        for given in (("row_bias=-400",), ("row_bias=-400", "learn_row_bias=true"), ())
    )
    data = make_batch(quiet)
    plain = quiet.plain("visual", data).tokens
    assert (quiet.features(data).stream("visual").tokens - plain).abs().max() < 1e-3
    assert (loud.features(data).stream("visual").tokens - plain).abs().max() > 1e-2
    # Not equal to the last bit: where the bias is trained, the attention runs along another path.
    torch.testing.assert_close(learned.features(data).stream("visual").tokens, plain, atol=1e-3, rtol=0)
    biases = {key for key, _ in parameter_groups(learned)["parts"]} - {
        key for key, _ in parameter_groups(quiet)["parts"]
    }
    assert len(biases) == sum(len(part.layers) for part in learned.parts.values()) * (2 if name == "coupling" else 1)


def test_a_learned_bias_needs_a_start() -> None:
    with pytest.raises(AVCoreError, match="row_bias must be a number with learn_row_bias=true"):
        make(*ROWS, *SMALL_SOUND, "parts.copl.rows.learn_row_bias=true", listed=("copl.rows",))


def test_rows_that_need_no_lift_keep_their_type() -> None:
    """Else the gradient of one M^g for all blocks would be rounded in each of them."""
    model = make(*ROWS, *SMALL_SOUND, listed=("copl.rows",))
    model.towers.to(torch.bfloat16)
    rows = model.parts["copl.rows.visual"].global_rows["input"]
    assert view(model, "visual", 0).lift(rows) is rows
    lifted = view(model, "visual", -1).lift(rows)
    assert (lifted.shape, lifted.dtype) == ((3, 128), torch.float32)
