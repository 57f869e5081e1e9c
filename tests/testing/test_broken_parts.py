"""Each check of parts is failed by a part that is wrong in that one way, and by no other check."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import (
    AVCoreError,
    Edit,
    Edits,
    Features,
    Fusion,
    FusionLayer,
    FusionSpec,
    MethodSpec,
    Need,
    Prompt,
    PromptLayer,
    PromptSpec,
)
from avcore.discovery import LoadedPlugin
from avcore.hookspecs import hookimpl
from avcore.injection import BlockView, PairLayout, PairView
from avcore.specs import BlockLayout
from avcore.testing.cases import PartCase
from avcore.testing.cases.parts import PLAIN
from avcore.testing.checks import Skipped
from avcore.testing.checks.part_forward import batch_equivariance, shapes
from avcore.testing.subject import Subject
from avcore.testing.toys import at_hand

Failing = Callable[..., dict[str, str]]


class Adapter(PromptLayer):
    """Sound: adds Up(GELU(Down x)) beside the attention, and is nothing at first."""

    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.block = block
        self.down, self.up = nn.Linear(block.width, 4), nn.Linear(4, block.width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def adapted(self, x_MND: Tensor) -> Tensor:
        out: Tensor = self.up(F.gelu(self.down(x_MND)))
        return out

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND))


class LooksAtTheCPU(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND) + torch.zeros(x_MND.shape[-1], device="cpu", dtype=x_MND.dtype))


class DividesByTime(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND) / (at.T - 1))


class PairsOfTokens(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        x_MND[:, self.block.prefix :].unflatten(1, (-1, 2))
        return super().attention(x_MND, at)


class SeesOtherClips(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND) + x_MND.mean(0, keepdim=True).expand_as(x_MND))


class Draws(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        torch.rand(1)
        return super().attention(x_MND, at)


class StartsLoud(Adapter):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__(config, block)
        nn.init.ones_(self.up.bias)


class OffersSingle(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND), offer={"seen": x_MND.float()})


class MixesTypes(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND * torch.ones(1)))


class Branches(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        if not x_MND.is_meta and float(x_MND.detach().sum()) > 1e9:
            return Edit()
        return super().attention(x_MND, at)


class Remembers(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        self.seen = [x_MND.detach()]
        return super().attention(x_MND, at)


class OwnSeed(Adapter):
    numbers = itertools.count()

    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__(config, block)
        draws = torch.Generator().manual_seed(next(self.numbers))
        nn.init.normal_(self.down.weight, generator=draws)


class NotSaved(Adapter):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__(config, block)
        self.scale = nn.Parameter(torch.ones(block.width), requires_grad=False)

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND * self.scale))


class Forgets(Adapter):
    """What it learns of the mean token is not saved."""

    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__(config, block)
        self.register_buffer("mean", torch.zeros(block.width), persistent=False)

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        if not self.training:
            return Edit(add=self.adapted(x_MND - self.mean))
        with torch.no_grad():
            self.mean += 0.1 * x_MND.mean((0, 1))
        return super().attention(x_MND, at)


class WantsToBeAlone(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        if at.project is not None:
            raise RuntimeError("somebody else is here")
        return super().attention(x_MND, at)


class TrainsTheBackbone(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        if self.training:
            at.block.inner.qkv.weight.requires_grad_()  # type: ignore[attr-defined]
        return super().attention(x_MND, at)


class RestsInTraining(Adapter):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__(config, block)
        self.shift = nn.Parameter(torch.zeros(block.width))

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND) + (self.shift.detach() if self.training else self.shift))


class WritesToTheBackbone(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        if self.training:
            with torch.no_grad():
                at.block.inner.norm1.bias.fill_(-0.0)  # type: ignore[attr-defined]
        return super().attention(x_MND, at)


class OwnGenerator(Adapter):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__(config, block)
        self.draws = torch.Generator().manual_seed(0)

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        if not self.training:
            return super().attention(x_MND, at)
        kept = torch.rand(x_MND.shape[-1], generator=self.draws) < 0.5
        return Edit(add=self.adapted(x_MND * kept))


class Misspells(Adapter):
    def attention_ouput(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
        return out_MND


class TakesLess(Adapter):
    def attention(self, x_MND: Tensor) -> Edit:  # type: ignore[override]
        return Edit(add=self.adapted(x_MND))


class DoesNothing(PromptLayer):
    def __init__(self, config: Any, block: BlockLayout) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2, block.width))


class WritesToTheTokens(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        if not self.training:  # autograd itself sees some of it in training
            x_MND[:, 0] += 0.01
        return super().attention(x_MND, at)


class WritesBehindAutograd(Adapter):
    def mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
        made = Edit(add=self.adapted(x_MND))
        x_MND.data += 0.01
        return made


class Adapters(Prompt):
    def layer(self, block: BlockLayout) -> PromptLayer:
        return Adapter(None, block)


class ChangesTheType(Adapters):
    def finish(self, features: Features) -> Features:
        if features.visual is None:
            return features
        return features.with_streams(visual=replace(features.visual, pooled=features.visual.pooled.double()))


class FinishesMore(Adapters):
    def finish(self, features: Features) -> Features:
        if features.visual is None:
            return features
        return features.with_streams(visual=replace(features.visual, tokens=features.visual.tokens * 1.0))


class SumsForNobody(Adapter):
    def mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
        size_B = x_MND[..., 0].square().mean(1).reshape(at.B, at.T).mean(1)
        return Edit(sums={"size": size_B})


class CountsPadding(Adapters):
    def losses(self, features: Features) -> dict[str, Tensor]:
        return {"size": next(iter(features.streams.values())).pooled[..., 0].square().mean()}


class KeepsSmall(Adapters):
    """Sound, with a loss of its own."""

    def losses(self, features: Features) -> dict[str, Tensor]:
        pooled_BTD = next(iter(features.streams.values())).pooled
        return {"size": pooled_BTD[features.valid, :, 0].square().mean()}


class AddsTheOther(FusionLayer):
    """Adds the other stream's mean token."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(2))

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        heard, seen = (x.mean(1, keepdim=True) for x in self.other(visual_MND, audio_MND, at))
        return Edits(
            visual=Edit(add=self.gate[0] * heard.expand(-1, visual_MND.shape[1], -1)),
            audio=Edit(add=self.gate[1] * seen.expand(-1, audio_MND.shape[1], -1)),
        )

    def other(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> tuple[Tensor, Tensor]:
        return audio_MND, visual_MND


class AddsAsOwn(AddsTheOther):
    def other(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> tuple[Tensor, Tensor]:
        return at.visual.as_own(audio_MND), at.audio.as_own(visual_MND)


class MapsItself(AddsTheOther):
    """Brings widths together by itself, whatever its spec says."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__(config, pair)
        self.heard = nn.Linear(pair.audio.width, pair.visual.width)
        self.seen = nn.Linear(pair.visual.width, pair.audio.width)

    def other(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> tuple[Tensor, Tensor]:
        return self.heard(audio_MND), self.seen(visual_MND)


class AddsPlaceByPlace(AddsTheOther):
    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        return Edits(visual=Edit(add=self.gate[0] * audio_MND), audio=Edit(add=self.gate[1] * visual_MND))


class NeedsBoth(Fusion):
    def layer(self, pair: PairLayout) -> FusionLayer:
        return AddsTheOther(None, pair)


def needs(*found: Need) -> Callable[[Any], frozenset[Need]]:
    return lambda config: frozenset(found)


@pytest.mark.parametrize(
    ("part", "check", "says", "fields"),
    [
        (Misspells, "sites", "'attention_ouput' of part 'mine' is no site", {}),
        (TakesLess, "sites", "it must be attention(self, x_MND, at)", {}),
        (DoesNothing, "sites", "overrides no site", {}),
        (WritesToTheTokens, "changes nothing in place", "'attention' of part 'mine' writes into a tensor", {}),
        (WritesBehindAutograd, "changes nothing in place", "'mlp' of part 'mine' writes into a tensor", {}),
        (LooksAtTheCPU, "meta device", "on the device of the input", {}),
        (ChangesTheType, "shapes", "torch.float64", {"finishes": frozenset({"pooled"})}),
        (DividesByTime, "one segment", "not finite", {}),
        (PairsOfTokens, "odd sizes", "3 x 3", {}),
        (SeesOtherClips, "batch equivariance", "batch axis", {}),
        (Draws, "eval determinism", "global generator", {}),
        (StartsLoud, "identity at start", "start what it adds at zero", {"identity_at_start": True}),
        (OffersSingle, "double precision", "offer mine", {}),
        (MixesTypes, "bf16", "dtype", {}),
        (Branches, "compile", "branches on values", {}),
        (Remembers, "keeps no tensors", "'seen' of mine.visual", {}),
        (FinishesMore, "finishes what it declares", "'tokens'", {"finishes": frozenset({"pooled"})}),
        (Adapters, "finishes what it declares", "has no 'finish'", {"finishes": frozenset({"pooled"})}),
        (OwnSeed, "initial values", "down.weight", {}),
        (NotSaved, "state keys", "make it a buffer", {}),
        (Forgets, "save and load", "persistent buffer", {}),
        (WantsToBeAlone, "mixing", "somebody else is here", {}),
        (TrainsTheBackbone, "trains only its parameters", "the frozen", {}),
        (RestsInTraining, "gradients", "shift", {}),
        (WritesToTheBackbone, "frozen weights", "Never write to at.block", {}),
        (SumsForNobody, "sums", "no loss of the part reads features.sums['mine.visual.size']", {}),
        (CountsPadding, "padded clips", "features.valid", {}),
        (OwnGenerator, "checkpointing", "global generator", {}),
    ],
)
def test_a_broken_prompt_fails_one_check(
    failing: Failing, part: Any, check: str, says: str, fields: dict[str, Any]
) -> None:
    found = failing("part", slow=[check], prompts=[at_hand(PromptSpec, name="mine", thing=part, **fields)])
    assert list(found) == [check], found
    assert says in found[check]


class PairsOfPictures(Adapter):
    """Takes B*T for even."""

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)))


class SwapsClipsAndSegments(Adapter):
    """Takes M for (T, B): nothing falls, but a clip sees others."""

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        over_B = x_MND.unflatten(0, (at.T, at.B)).mean(0, keepdim=True).expand(at.T, -1, -1, -1)
        return Edit(add=self.adapted(x_MND) + over_B.flatten(0, 1))


@pytest.mark.parametrize(
    ("part", "look", "says"),
    [
        (PairsOfPictures, shapes, "clips of 3 segments: the forward fails"),
        (SwapsClipsAndSegments, batch_equivariance, "must not see the others"),
    ],
)
def test_the_number_of_pictures_is_odd_and_that_of_clips_not_that_of_segments(
    make_plugin: Callable[..., Any], part: Any, look: Callable[[PartCase], None], says: str
) -> None:
    spec = at_hand(PromptSpec, name="mine", thing=part)
    case = PartCase(Subject.of_module(make_plugin(prompts=[spec])), spec, classes=(PLAIN,))
    with pytest.raises(AssertionError, match=says):
        look(case)


class EmbedsTheLastWidth(Prompt):
    def __init__(self, config: Any, stream: Any) -> None:
        super().__init__(config, stream)
        self.vector = nn.Parameter(torch.zeros(stream.width))

    def after_embedding(self, x_MND: Tensor, at: Any) -> Tensor:
        return self.vector


def test_a_prompt_that_takes_the_last_width_for_the_first_is_told(failing: Failing) -> None:
    found = failing("part", everywhere=True, prompts=[at_hand(PromptSpec, name="mine", thing=EmbedsTheLastWidth)])
    assert "'stream.stages[0].width' that of what is embedded" in found["assembles where its needs are met"]


@pytest.mark.parametrize(
    ("part", "declared", "check", "says"),
    [
        (AddsTheOther, needs(Need.BOTH_STREAMS), "assembles where its needs are met", "Need.EQUAL_WIDTHS"),
        (
            AddsPlaceByPlace,
            needs(Need.BOTH_STREAMS, Need.EQUAL_WIDTHS),
            "assembles where its needs are met",
            "return Need.EQUAL_GRIDS from",
        ),
    ],
)
def test_a_fusion_that_lies_about_its_needs_is_told_which_it_lacks(
    failing: Failing, part: Any, declared: Any, check: str, says: str
) -> None:
    spec = at_hand(FusionSpec, name="mine", thing=part, requires=declared)
    found = failing("part", everywhere=True, fusions=[spec])
    assert check in found, found
    assert says in found[check]


@pytest.mark.parametrize(
    ("part", "as_own", "check", "says"),
    [
        (AddsTheOther, ("width",), "reads as own", "as_own=('width',), does not assemble"),
        (MapsItself, ("width",), "reads as own", "no gradient: align.layers."),
        (AddsAsOwn, (), "assembles where its needs are met", "FusionSpec(as_own=('width',))"),
        (AddsAsOwn, ("grid",), "reads as own", "mine"),
    ],
)
def test_a_fusion_that_lies_about_what_it_reads_as_its_own_is_told(
    failing: Failing, part: Any, as_own: tuple[str, ...], check: str, says: str
) -> None:
    spec = at_hand(FusionSpec, name="mine", thing=part, as_own=as_own)
    found = failing("part", everywhere=True, fusions=[spec])
    assert check in found, found
    assert says in found[check]


def test_a_sound_prompt_fails_nothing(failing: Failing) -> None:
    spec = at_hand(PromptSpec, name="mine", thing=Adapter, identity_at_start=True)
    assert failing("part", slow=["compile", "meta device"], everywhere=True, prompts=[spec]) == {}


def test_a_sound_prompt_with_a_loss_fails_nothing(failing: Failing) -> None:
    assert failing("part", prompts=[at_hand(PromptSpec, name="mine", thing=KeepsSmall)]) == {}


def test_a_sound_fusion_fails_nothing(failing: Failing) -> None:
    spec = at_hand(FusionSpec, name="mine", thing=AddsAsOwn, as_own=("width",))
    assert failing("part", slow=["meta device"], everywhere=True, fusions=[spec]) == {}


class ReadsItsCompanion(Adapters):
    """Refuses to be without the part that offers what it reads."""

    def finish(self, features: Features) -> Features:
        if not any(name.startswith("first.") for name in features.offers):
            raise AVCoreError("Part 'second' reads what 'first' offers: list that too.")
        return features


class Offers(Adapter):
    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(add=self.adapted(x_MND), offer={"seen": x_MND})


def test_a_part_that_is_refused_alone_is_tried_with_the_rest_of_its_method() -> None:
    first, second = (
        at_hand(PromptSpec, name=name, thing=thing)
        for name, thing in (("first", Offers), ("second", ReadsItsCompanion))
    )
    method = MethodSpec(name="both", prompts=("first", "second"))
    plugin = LoadedPlugin(distribution="mine", version="0", specs={"methods": (method,), "prompts": (first, second)})
    module = SimpleNamespace(avcore_prompts=hookimpl(lambda: [first, second], specname="avcore_prompts"))
    case = PartCase(Subject(replace(plugin, plugin=module), installed=False), second)
    assert {part.name for part in case.first()[1].instances} == {"first", "second"}
    alone = PartCase(Subject(replace(plugin, plugin=module, specs={}), installed=False), second)
    with pytest.raises(Skipped, match="reads what 'first' offers"):
        alone.first()
