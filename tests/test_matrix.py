"""``avcore.matrix`` and ``avcore plugins matrix``: what is listed, and in which words it is refused."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from toy_rows import Rows

import avcore_dgsct
import avcore_lavish
import avcore_stfp
from avcore.cli import main
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.injection import Edit, Edits, FusionLayer, PairLayout, PairView, PromptLayer
from avcore.matrix import SHARED, Combination, backbone_pairs, combinations, fusion_sets, origin_of, prompt_sets
from avcore.registry import Registry, load_registry
from avcore.specs import FusionSpec, MethodSpec, Need, PromptSpec
from avcore.testing.backbones import ToyBackbones
from avcore.testing.toys import at_hand


class Picky(FusionLayer):
    """Refuses a pair for a reason of its own."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        if pair.audio.width % 32:
            raise AVCoreError(f"parts.picky: blocks of width {pair.audio.width} are not made of 32s.")
        self.gain = nn.Parameter(torch.ones(()))

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        return Edits(visual=Edit(add=self.gain * visual_MND), audio=Edit(add=self.gain * audio_MND))


class Strangers:
    """A method with a prompt, a prompt and two fusions of no method."""

    @hookimpl
    def avcore_prompts(self) -> list[PromptSpec]:
        return [at_hand(PromptSpec, name="rower.rows", thing=Rows), at_hand(PromptSpec, name="lone", thing=Rows)]

    @hookimpl
    def avcore_fusions(self) -> list[FusionSpec]:
        needs = frozenset({Need.BOTH_STREAMS, Need.CLASS_TOKEN})
        return [
            at_hand(FusionSpec, name="picky", thing=Picky),
            at_hand(FusionSpec, name="classy", thing=Picky, requires=lambda config: needs),
        ]

    @hookimpl
    def avcore_methods(self) -> list[MethodSpec]:
        return [MethodSpec(name="rower", prompts=("rower.rows",))]


def registry(**others: Any) -> Registry:
    """Toy backbones, parts of a stranger, three methods of ours."""
    ours = {"avcore-dgsct": avcore_dgsct, "avcore-lavish": avcore_lavish, "avcore-stfp": avcore_stfp}
    return Registry.from_modules({"toys": ToyBackbones(), "strangers": Strangers(), **ours, **others})


def rows_of(found: Registry, visual: str, audio: str) -> dict[tuple[str, str], Combination]:
    return {(one.prompts, one.fusions): one for one in combinations(found, [(visual, audio)])}


def test_sets_are_methods_and_what_no_method_lists() -> None:
    # A method of theirs lists a part of avcore, which is still a part that anybody may ask for.
    assert prompt_sets(registry()) == ["none", "rower", "stfp", "segment_embedding", "lone", "dgsct.context"]
    fusions = ["none", "dgsct", "lavish", "stfp", "picky", "classy", "stfp.class_token"]
    assert sorted(fusion_sets(registry())) == sorted(fusions)


def test_every_set_of_prompts_meets_every_fusion_once_on_each_pair() -> None:
    found = registry()
    pairs = [("toy_plain", SHARED), ("toy_windowed", "toy_plain")]
    rows = list(combinations(found, pairs))
    assert len(rows) == len({(row.prompts, row.fusions, row.visual, row.audio) for row in rows})
    assert len(rows) == len(pairs) * len(prompt_sets(found)) * len(fusion_sets(found))
    assert all(row.ok is (row.reason == "") for row in rows)


def test_a_row_says_why_it_is_refused() -> None:
    rows = rows_of(registry(), "toy_windowed", "toy_plain")
    assert rows["rower", "dgsct"].ok
    assert rows["rower", "lavish"].ok
    assert rows["lone", "classy"].reason.startswith("Part 'classy' needs a class token, but this run has visual")
    assert "visual: 2 blocks of width 16" in rows["lone", "classy"].reason
    assert rows["none", "picky"].reason == "parts.picky: blocks of width 16 are not made of 32s."


def test_a_part_that_crashes_takes_no_other_row_with_it() -> None:
    class Crashes(PromptLayer):
        def __init__(self, config: Any, block: Any) -> None:
            raise ZeroDivisionError("by zero")

    spec = at_hand(PromptSpec, name="crashes", thing=Crashes)
    rows = rows_of(registry(other=SimpleNamespace(avcore_prompts=hookimpl(lambda: [spec]))), "toy_plain", SHARED)
    failure = "Plugin other 0 failed in 'layer' of part 'crashes': ZeroDivisionError: by zero. Tell its author."
    assert rows["crashes", "none"].reason == failure
    assert rows["lone", "none"].ok


class Falls(PromptLayer):
    """Needs an even number of pictures, which no spec can say and no layer finds when it is made."""

    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(add=x_MND.unflatten(0, (-1, 2)).flip(1).flatten(0, 1) * self.rows.sum())


class Wide(FusionLayer):
    """Is made for equal widths and does not say so: it falls in the forward alone."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        seen, heard = visual_MND.mean(1, keepdim=True), audio_MND.mean(1, keepdim=True)
        return Edits(visual=Edit(add=self.gain * heard), audio=Edit(add=self.gain * seen))


class Unread(Rows):
    """Has parameters that nothing reads."""

    def __init__(self, config: Any, block: Any) -> None:
        super().__init__(config, block)
        self.idle = nn.Parameter(torch.zeros(3))


def test_one_forward_finds_what_needs_and_layers_do_not_say() -> None:
    specs = [at_hand(PromptSpec, name=name, thing=one) for name, one in (("falls", Falls), ("unread", Unread))]
    wide = at_hand(FusionSpec, name="wide", thing=Wide)
    other = SimpleNamespace(
        avcore_prompts=hookimpl(lambda: specs, specname="avcore_prompts"),
        avcore_fusions=hookimpl(lambda: [wide], specname="avcore_fusions"),
    )
    unequal = rows_of(registry(other=other), "toy_windowed", "toy_plain")
    assert unequal["none", "wide"].reason.startswith("Part 'wide' gives 'add' of (15, 1, 16) for visual tokens")
    assert unequal["lone", "wide"].reason == unequal["none", "wide"].reason
    assert unequal["falls", "none"].reason.startswith("Plugin other 0 failed in 'attention' of part 'falls'")
    assert "would get no gradient: unread.visual.layers.0.idle" in unequal["unread", "none"].reason
    equal = rows_of(registry(other=other), "toy_plain", SHARED)
    assert equal["lone", "wide"].ok


class Reads(FusionLayer):
    """Adds what the prompt of its method offers, and refuses to be without it."""

    def __init__(self, config: Any, pair: PairLayout) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        if at.visual.project is None:
            raise AVCoreError("'reads' is made to stand beside 'maps': list that too.")
        return Edits(visual=Edit(add=self.gain * visual_MND), audio=Edit(add=self.gain * audio_MND))


class Maps(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.map = nn.Linear(block.width, 3 * block.width)

    def projection(self, name: str, x: Tensor) -> Tensor | None:
        return self.map(x) if name == "qkv" else None


def test_parts_of_one_method_are_tried_together_where_one_refuses_to_be_alone() -> None:
    maps, reads = at_hand(PromptSpec, name="maps", thing=Maps), at_hand(FusionSpec, name="reads", thing=Reads)
    other = SimpleNamespace(
        avcore_prompts=hookimpl(lambda: [maps], specname="avcore_prompts"),
        avcore_fusions=hookimpl(lambda: [reads], specname="avcore_fusions"),
        avcore_methods=hookimpl(
            lambda: [MethodSpec(name="both", prompts=("maps",), fusions=("reads",))], specname="avcore_methods"
        ),
    )
    rows = rows_of(registry(other=other), "toy_plain", SHARED)
    assert rows["both", "both"].ok
    assert rows["none", "both"].reason == "'reads' is made to stand beside 'maps': list that too."
    assert rows["lone", "both"].reason == rows["none", "both"].reason


def borrowing() -> Registry:
    """A method that lists the fusion of another distribution."""
    method = MethodSpec(name="borrower", fusions=("picky",))
    return registry(other=SimpleNamespace(avcore_methods=hookimpl(lambda: [method], specname="avcore_methods")))


def test_a_fusion_that_a_method_of_others_lists_has_a_column_of_its_own() -> None:
    found = fusion_sets(borrowing())
    assert {"borrower", "picky"} <= set(found)
    assert origin_of(borrowing(), "borrower", "fusions") == "other"
    assert origin_of(borrowing(), "picky", "fusions") == "strangers"


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("rower", {("rower", "none"), ("rower", "picky"), ("rower", "borrower")}),
        ("rower.rows", {("rower", "none"), ("rower", "picky"), ("rower", "borrower")}),
        ("picky", {("none", "picky"), ("lone", "picky"), ("none", "borrower")}),
        ("other", {("none", "borrower"), ("stfp", "borrower")}),
        ("other:borrower", {("none", "borrower"), ("stfp", "borrower")}),
    ],
)
def test_only_what_a_name_has_a_part_in(only: str, expected: set[tuple[str, str]]) -> None:
    every = [("toy_plain", SHARED)]
    found = {(one.prompts, one.fusions) for one in combinations(borrowing(), every, only)}
    assert expected <= found
    assert ("none", "none") not in found
    assert len(found) < len(list(combinations(borrowing(), every)))
    if only == "rower":
        assert {prompts for prompts, _ in found} == {"rower"}


def test_only_of_a_name_that_nobody_has() -> None:
    with pytest.raises(AVCoreError, match=r"--only rowr: .* Did you mean 'rower'\?"):
        list(combinations(registry(), [("toy_plain", SHARED)], "rowr"))


def test_a_name_of_two_distributions_is_listed_for_each_and_what_it_was_called_before_is_no_row() -> None:
    sets = prompt_sets(registry(again=SimpleNamespace(avcore_prompts=Strangers().avcore_prompts)))
    assert {"strangers:lone", "again:lone"} < set(sets)
    assert "lone" not in sets


def test_a_method_whose_part_is_not_there_says_so_in_its_rows() -> None:
    lost = MethodSpec(name="lost", prompts=("nowhere.rows",))
    rows = rows_of(registry(other=SimpleNamespace(avcore_methods=hookimpl(lambda: [lost]))), "toy_plain", SHARED)
    assert rows["lost", "none"].reason.startswith("Unknown prompt 'nowhere.rows'")
    assert rows["rower", "none"].ok


def test_without_names_every_family_is_tried_with_those_that_serve_sound_alone() -> None:
    found = load_registry()
    pairs = backbone_pairs(found)
    assert ("vit_tiny_patch16_224", SHARED) in pairs
    assert ("vit_tiny_patch16_224", "htsat") in pairs
    assert not any(visual == "htsat" for visual, _ in pairs)
    assert backbone_pairs(found, audio="vit_small_patch16_224")[0][1] == "vit_small_patch16_224"
    assert backbone_pairs(found, "a", "b") == [("a", "b")]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["plugins", "matrix", *arguments])


def test_the_command_prints_tables_and_json() -> None:
    pair = ("--visual", "test_vit", "--audio", "test_ast")
    rows = json.loads(invoke(*pair, "--json").stdout)
    assert list(rows[0]) == ["prompts", "fusions", "visual", "audio", "ok", "reason"]
    assert {row["audio"] for row in rows} == {"test_ast"}
    refused = {row["fusions"]: row["reason"] for row in rows if row["prompts"] == "none" and not row["ok"]}
    assert refused["copl"] == "parts.copl.coupling.last=4, but there are 2 blocks."
    printed = invoke(*pair).stdout
    assert "visual test_vit, audio test_ast" in printed
    assert "parts.copl.coupling.last=4, but there are 2 blocks." in printed
    assert all(len(line) <= 100 for line in printed.splitlines())
    only = invoke(*pair, "--only", "lavish").stdout
    assert "  avcore-lavish" in only
    assert "copl.coupling" not in only
    assert f"{sum(row['ok'] for row in rows)} of {len(rows)} combinations run" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--visual", "vit_tinny_patch16_224"), "Did you mean 'vit_tiny_patch16_224'?"),
        (("--visual", "htsat"), "'htsat' serves the audio stream only"),
    ],
)
def test_a_wrong_backbone_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
