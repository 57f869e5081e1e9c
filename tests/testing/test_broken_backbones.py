"""Each check of backbones is failed by one that is wrong in that one way, and by no other check."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from avcore import AVCoreError, BackboneSpec, FilterBankGeometry, StreamLayout, Windows
from avcore.backbones import Projection, TextTower, Tower
from avcore.data.frontends import FilterBank
from avcore.testing.backbones import ToyBackbone, ToyBackbones, ToyBlock, ToySettings, ToyTower
from avcore.testing.texts import ToyText, ToyTextSettings, ToyTextTower
from avcore.testing.toys import at_hand

Failing = Callable[..., dict[str, str]]
PRESETS = {spec.name: spec for spec in ToyBackbones().avcore_backbones()}["toy"].presets


def family(
    tower: type[ToyTower] = ToyTower, block: type[ToyBlock] = ToyBlock, windowed: bool = False, **fields: Any
) -> BackboneSpec:
    """A family of one toy, with a tower or a block of its own."""

    class Backbone(ToyBackbone):
        block_class = block

        def tower(self, stream: str, settings: ToySettings, segments: int, windows: Windows | None = None) -> ToyTower:
            return tower(self, stream, settings, segments).freeze()

    def build(settings: Any, *, name: str, preset: Mapping[str, Any] | None) -> ToyBackbone:
        if preset is None:
            raise AVCoreError(f"There is no '{name}'.")
        return Backbone(name, **preset)

    preset = PRESETS["toy_windowed" if windowed else "toy_plain"]
    given = {"thing": build, "config": ToySettings, "presets": {"mine_small": preset}, **fields}
    spec: BackboneSpec = at_hand(BackboneSpec, name="mine", **given)
    return spec


class WrongPool(ToyTower):
    def pool(self, tokens_MND: Tensor) -> Tensor:
        return tokens_MND[:, :1]


class OtherOnMeta(ToyTower):
    def __init__(self, trunk: ToyBackbone, stream: str, settings: ToySettings, segments: int) -> None:
        super().__init__(trunk, stream, settings, segments)
        if torch.empty(0).device.type == "meta":
            layout: StreamLayout = replace(self.layout, taps=(3,))
            self.layout = layout


class SeesOtherClips(ToyTower):
    def embed(self, image: Tensor) -> Tensor:
        x_MND = super().embed(image)
        return x_MND * (1 + image.mean() * torch.arange(x_MND.shape[-1])).to(x_MND.dtype)


class Trains(ToyTower):
    def train(self, mode: bool = True) -> Self:
        return nn.Module.train(self, mode)


class Counts(ToyTower):
    def __init__(self, trunk: ToyBackbone, stream: str, settings: ToySettings, segments: int) -> None:
        super().__init__(trunk, stream, settings, segments)
        self.calls = nn.Parameter(torch.zeros(1))

    def embed(self, image: Tensor) -> Tensor:
        self.calls.data += 1
        return super().embed(image)


class OffersAnother(ToyTower):
    """A norm that it calls past its registered modules."""

    def __init__(self, trunk: ToyBackbone, stream: str, settings: ToySettings, segments: int) -> None:
        super().__init__(trunk, stream, settings, segments)
        self.hidden = (trunk.norm,)

    def norm(self, x_MND: Tensor) -> Tensor:
        made: Tensor = self.hidden[0](x_MND)
        return made


class OtherAlone(ToyBlock):
    """Called by itself it gives something else than in a step."""

    def forward(self, x: Any, *given: Any, run: Any = None) -> Any:
        made = super().forward(x, *given, run=run)
        return made if run else made * 1.01


class MakesBlocks(ToyTower):
    def block(self, index: int) -> ToyBlock:
        made: ToyBlock = copy.copy(super().block(index))
        return made


class Registers(ToyBlock):
    """It has the merging layers of the backbone as its own."""

    def __init__(self, inner: Any, mergings: Iterable[nn.Module] = ()) -> None:
        super().__init__(inner)
        self.mergings = nn.ModuleList(mergings)  # type: ignore[assignment]


class RawRows(ToyBlock):
    """Rows are others than those given."""

    def attention(self, x_MND: Tensor, *, rows: Tensor | None = None, **given: Any) -> tuple[Tensor, Tensor | None]:
        return super().attention(x_MND, rows=None if rows is None else rows.roll(1, -1), **given)


class MixesSegments(ToyBlock):
    """Rows of a segment meet the tokens of another one."""

    takes_pieces = True

    def attention(self, x_MND: Tensor, *, rows: Any = None, **given: Any) -> tuple[Tensor, Tensor | None]:
        if isinstance(rows, tuple):
            each = [one.expand(1, -1, -1) if one.dim() == 2 else one for one in rows]
            rows = torch.cat([one.repeat_interleave(len(x_MND) // len(one), 0) for one in each], dim=1)
        return super().attention(x_MND, rows=rows, **given)


class MixingMLP(ToyBlock):
    def mlp(self, x_MND: Tensor, *, project: Projection | None = None) -> Tensor:
        return super().mlp(x_MND, project=project) + x_MND.mean(1, keepdim=True)


class NormsAllTokens(ToyBlock):
    def after_sum(self, name: str, x_MND: Tensor) -> Tensor:
        return x_MND / x_MND.std((1, 2), keepdim=True)


class NoKV(ToyBlock):
    def attention(self, x_MND: Tensor, *, kv: Any = None, **given: Any) -> tuple[Tensor, Tensor | None]:
        return super().attention(x_MND, **given)


class DetachesGate(ToyBlock):
    def gated_attention(self, x_MND: Tensor, gate: Tensor, **given: Any) -> Tensor:
        return super().gated_attention(x_MND, gate.detach(), **given) + 0 * gate


class AlwaysWindowed(ToyBlock):
    def attention(self, x_MND: Tensor, *, windowed: bool = True, **given: Any) -> tuple[Tensor, Tensor | None]:
        return super().attention(x_MND, **given)


class IgnoresBias(ToyBlock):
    def attention(self, x_MND: Tensor, *, bias_HNN: Tensor | None = None, **given: Any) -> tuple[Tensor, Tensor | None]:
        return super().attention(x_MND, **given)


class WrongUnwindows(ToyBlock):
    def unwindows(self, x_MND: Tensor) -> Tensor:
        return super().unwindows(x_MND).flip(1)


class LiftsAll(ToyBlock):
    def lift(self, rows: Tensor) -> Tensor:
        return super().lift(rows) * 2


class NoProj(ToyBlock):
    def attention(
        self, x_MND: Tensor, *, project: Projection | None = None, **given: Any
    ) -> tuple[Tensor, Tensor | None]:
        def without(name: str, x: Tensor) -> Tensor | None:
            return None if project is None or name == "proj" else project(name, x)

        return super().attention(x_MND, project=without, **given)


class NoGradient(ToyBlock):
    def attention(self, x_MND: Tensor, **given: Any) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            return super().attention(x_MND, **given)


class SaysSingle(ToyBlock):
    @property
    def dtype(self) -> torch.dtype:
        return torch.float32


class Branches(ToyBlock):
    def mlp(self, x_MND: Tensor, *, project: Projection | None = None) -> Tensor:
        if float(x_MND.sum()) > 1e9:
            return x_MND
        return super().mlp(x_MND, project=project)


@dataclass(frozen=True, kw_only=True)
class FragileGeometry(FilterBankGeometry):
    front_end = f"{__name__}:Fragile"  # type: ignore[misc]


class Fragile(FilterBank):
    def forward(self, waveform_BS: Tensor) -> Tensor:
        if waveform_BS.shape[1] < self.rate:
            raise IndexError("too short")
        return super().forward(waveform_BS)


class FragileTower(ToyTower):
    def __init__(self, trunk: ToyBackbone, stream: str, settings: ToySettings, segments: int) -> None:
        super().__init__(trunk, stream, settings, segments)
        if stream == "audio":
            self.geometry = FragileGeometry(rate=8000, mel_bins=16, frames=16, shift_ms=62)


def anything(settings: Any, *, name: str, preset: Mapping[str, Any] | None) -> ToyBackbone:
    return ToyBackbone(name, **(preset or PRESETS["toy_plain"]))


def silent(settings: Any, *, name: str, preset: Mapping[str, Any] | None) -> ToyBackbone:
    made: ToyBackbone = family().load()(settings, name=name, preset=preset)
    made.notices = ()
    return made


def drops(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


@pytest.mark.parametrize(
    ("spec", "check", "says"),
    [
        (family(WrongPool), "layout", "what 'pool' makes"),
        (family(OtherOnMeta), "layout without weights", "on the meta device the layout is"),
        (family(SeesOtherClips), "one clip, one segment", "clips must not see each other"),
        (family(Trains), "frozen", "in training mode"),
        (family(Counts), "digest", "changes its weights"),
        (family(block=OtherAlone), "plain forward", "keep no state"),
        (family(OffersAnother), "trained copies", "offers 'norm', but a copy in its place is not used"),
        (family(MakesBlocks), "blocks", "asked for twice"),
        (family(block=Registers, windowed=True), "blocks", "stands there twice, as trunk.mergings.0.norm.weight and"),
        (family(block=RawRows), "rows", "the same rows carried"),
        (family(block=MixesSegments), "rows in pieces", "rows of two segments"),
        (family(block=MixingMLP), "carried rows", "the MLP of tokens beside rows"),
        (family(block=NormsAllTokens), "norms behind sums", "after_sum('attention', ...) of tokens beside rows"),
        (family(block=NoKV), "keys and values", "kv changes nothing"),
        (family(block=DetachesGate), "gated attention", "gives the gate"),
        (family(block=AlwaysWindowed, windowed=True), "free sequences", "five sequences of three tokens"),
        (family(block=IgnoresBias), "free sequences", "tokens that see the third"),
        (family(block=WrongUnwindows, windowed=True), "windows", "is not x"),
        (family(block=LiftsAll), "lifted rows", "the block's own width"),
        (family(block=NoProj), "frozen maps", "'qkv' and 'proj'"),
        (family(block=NoGradient), "gradients pass", "torch.no_grad()"),
        (family(block=SaysSingle), "types", "Block.dtype says torch.float32"),
        (family(block=Branches), "compile", "fullgraph=True"),
        (family(thing=silent), "weights on request", "notices"),
        (family(thing=anything), "unknown names", "makes a backbone of the unknown name"),
        (family(FragileTower), "short clips", "0.5 s of sound with IndexError"),
        (family(converter=f"{__name__}:drops"), "converter", "drops a name"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_broken_backbone_fails_one_check(failing: Failing, spec: BackboneSpec, check: str, says: str) -> None:
    found = failing("backbone", slow=[check], backbones=[spec])
    # Where no gradient passes, copies within blocks get none either.
    assert set(found) - ({"trained copies"} if check == "gradients pass" else set()) == {check}, found
    assert says in found[check]


@pytest.mark.parametrize("member", ["toy_plain", "toy_post_norm", "toy_windowed"])
def test_the_toys_of_the_kit_fail_nothing(failing: Failing, member: str) -> None:
    spec = at_hand(
        BackboneSpec,
        name="mine",
        thing=family(windowed=member == "toy_windowed").load(),
        config=ToySettings,
        presets={"mine_small": PRESETS[member]},
    )
    assert failing("backbone", slow=["compile", "layout without weights"], backbones=[spec]) == {}


def test_a_family_for_sound_alone_is_looked_at_beside_a_toy_for_pictures(failing: Failing) -> None:
    assert failing("backbone", backbones=[family(streams=("audio",))]) == {}


def test_the_member_is_named_by_a_setting_or_is_one_for_tests(failing: Failing) -> None:
    presets = {"large": PRESETS["toy_windowed"], "test_small": PRESETS["toy_plain"]}
    spec = family(WrongPool, presets=presets)
    assert "'test_small'" in failing("backbone", backbones=[spec])["layout"]
    assert "'large'" in failing("backbone", backbones=[spec], sets={"mine": ["visual.backbone=large"]})["layout"]


# --------------------------------------------------------------------------------------------------------------------
# Text


def reader(tower: type[ToyTextTower] = ToyTextTower, block: type[ToyBlock] = ToyBlock) -> BackboneSpec:
    """A family of one toy that reads sentences."""

    class Backbone(ToyText):
        block_class = block

        def tower(self, stream: str, settings: ToyTextSettings, segments: int, windows: Windows | None = None) -> Tower:
            return tower(self, settings, segments).freeze()

    def build(settings: Any, *, name: str, preset: Mapping[str, Any] | None) -> ToyText:
        if preset is None:
            raise AVCoreError(f"There is no '{name}'.")
        return Backbone(name)

    spec: BackboneSpec = at_hand(
        BackboneSpec, name="mine", thing=build, config=ToyTextSettings, presets={"mine_small": {}}, streams=("text",)
    )
    return spec


class PoolsAtTheLongest(ToyTextTower):
    """Pools every sentence where the longest ends."""

    def pool(self, tokens_MND: Tensor, ids_KL: Tensor | None = None) -> Tensor:
        assert ids_KL is not None
        return tokens_MND[:, int(ids_KL.argmax(1).max())]


class SmallVocabulary(ToyTextTower):
    def __init__(self, trunk: ToyText, settings: ToyTextSettings, segments: int) -> None:
        super().__init__(trunk, settings, segments)
        self.geometry = replace(self.geometry, vocabulary=10)


class SharesNothing(ToyTextTower):
    project = TextTower.project


class HidesFromNobody(ToyTextTower):
    """Asks for what its blocks do not do."""

    def key_bias(self, ids_KL: Tensor) -> Tensor:
        return torch.where(ids_KL == 0, -torch.inf, 0.0)[:, None, None]


class Forgets(ToyBlock):
    def attention(self, x_MND: Tensor, *, bias_HNN: Tensor | None = None, **given: Any) -> Any:
        return super().attention(x_MND, bias_HNN=None if bias_HNN is None or bias_HNN.dim() == 4 else bias_HNN, **given)


class CountsSentences(ToyTextTower):
    def embed(self, ids_KL: Tensor) -> Tensor:
        self.trunk.words.weight.data *= 1.1
        return super().embed(ids_KL)


@pytest.mark.parametrize(
    ("spec", "check", "says", "also"),
    [
        (reader(PoolsAtTheLongest), "sentences", "a sentence alone gives another vector", []),
        (reader(HidesFromNobody, Forgets), "hidden tokens", "its vector depends on a token that 'key_bias' hides", []),
        (reader(SharesNothing), "shared space", "layout.shared is 12, and 'project' is not implemented", []),
        # What changes its weights gives a sentence another vector the next time.
        (reader(CountsSentences), "frozen sentences", "a forward changes the weights", ["sentences"]),
        (reader(block=SaysSingle), "types of sentences", "Block.dtype says torch.float32", []),
        (reader(block=NoKV), "keys and values", "kv changes nothing", []),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_broken_text_tower_fails_one_check(
    failing: Failing, spec: BackboneSpec, check: str, says: str, also: list[str]
) -> None:
    found = failing("backbone", slow=[check], backbones=[spec])
    assert says in found.pop(check)
    assert list(found) == also


def test_ids_beyond_the_vocabulary_are_found(failing: Failing) -> None:
    assert "of a vocabulary of 10" in failing("backbone", backbones=[reader(SmallVocabulary)])["sentences"]


def test_the_toy_that_reads_fails_nothing(failing: Failing) -> None:
    assert failing("backbone", slow=["compile", "layout without weights"], backbones=[reader()]) == {}
