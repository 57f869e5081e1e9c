"""Every legible count of the poster, on the meta device."""

from functools import cache

import pytest

from avcore.assemble import assemble
from avcore.config import resolve_config
from avcore.registry import Registry
from avcore.report.parameters import ParameterReport, count_parameters

NO_GATES = ("parts.stfp.temporal.gate=none", "parts.stfp.joint.gate=none")
BASE = "segment_embedding+stfp.base"
T, S, F = "stfp.temporal", "stfp.spatial", "stfp.joint"
WIDTH, DEPTH = 1024, 24
# Head, segment embeddings, final norm, class token of sound.
BASELINE = 1_063_965 + 20 * WIDTH + 2 * WIDTH + WIDTH


@cache
def count(registry: Registry, *sets: str, fusions: str | None = None, **options: str) -> ParameterReport:
    """Count the recipe of AVE; gates are left out where their part is there, as the poster prints none."""
    gateless = [key for key in NO_GATES if fusions is None or not key.startswith(f"parts.{F}")]
    gateless = [key for key in gateless if T in options.get("prompts", T) or not key.startswith(f"parts.{T}")]
    resolved = resolve_config(
        registry, method="stfp", task="ave", fusions=fusions, sets=(*gateless, *sets), need_data=False, **options
    )
    return count_parameters(assemble(resolved.config, registry, meta=True))


def millions(number: int, decimals: int = 2) -> str:
    return f"{number / 1e6:.{decimals}f}"


@pytest.mark.parametrize(
    ("prompts", "fusions", "vectors", "printed"),
    [
        (BASE, "none", 0, "1.09"),
        (f"{BASE}+{T}", "none", 8, "1.28"),
        (f"{BASE}+{S}", "none", 20, "1.58"),
        (BASE, None, 2, "1.14"),
        (f"{BASE}+{T}+{S}", "none", 28, "1.78"),
        (f"{BASE}+{S}", None, 22, "1.63"),
        (f"{BASE}+{T}", None, 10, "1.33"),
        (f"{BASE}+{T}+{S}", None, 30, "1.82"),
    ],
    ids=["baseline", "T", "S", "F", "T+S", "S+F", "T+F", "all"],
)
def test_ablation_of_the_three_prompts(
    registry: Registry, prompts: str, fusions: str | None, vectors: int, printed: str
) -> None:
    """S+F is not legible (1.6?); the others round to what is printed."""
    found = count(registry, prompts=prompts, fusions=fusions)
    assert found.trainable == BASELINE + vectors * DEPTH * WIDTH
    assert found.unused_in_reference == 0
    assert millions(found.trainable) == printed


@pytest.mark.parametrize(("recipe", "bare", "gated"), [(None, 1_824_797, 1_824_893), ("base", 1_095_965, 1_096_013)])
def test_the_whole_method(registry: Registry, recipe: str | None, bare: int, gated: int) -> None:
    assert count(registry, recipe=recipe).trainable == bare
    resolved = resolve_config(registry, method="stfp", task="ave", recipe=recipe, need_data=False)
    assert count_parameters(assemble(resolved.config, registry, meta=True)).trainable == gated


@pytest.mark.parametrize(("stream", "unused"), [("audio", 10 * WIDTH), ("visual", 11 * WIDTH)])
def test_single_branches(registry: Registry, stream: str, unused: int) -> None:
    """0.06 and 0.4 M, with the other stream's embedding, and visually the class token, which the reference has too."""
    none = count(registry, streams=stream, prompts=BASE, fusions="none")
    assert none.unused_in_reference == unused
    assert none.trainable + none.unused_in_reference == 55_325
    prompted = count(registry, streams=stream, fusions="none")
    assert prompted.unused_in_reference == unused
    assert prompted.trainable + prompted.unused_in_reference == 55_325 + 14 * DEPTH * WIDTH == 399_389
    assert (millions(55_325), millions(399_389, 1)) == ("0.06", "0.4")


@pytest.mark.parametrize("stream", ["audio", "visual"])
def test_prompts_in_one_modality_only(registry: Registry, stream: str) -> None:
    """1.43 M: so temporal prompts are not shared by the modalities."""
    found = count(registry, f"parts.{T}.streams={stream}", f"parts.{S}.streams={stream}", fusions="none")
    assert found.trainable == BASELINE + 14 * DEPTH * WIDTH == 1_431_581
    assert millions(found.trainable) == "1.43"


def test_joint_attention_without_prompts_counts_as_no_fusion(registry: Registry) -> None:
    without = count(registry, "parts.stfp.joint.vectors=0")
    assert without.trainable == count(registry, fusions="none").trainable == 1_775_645
    assert millions(without.trainable, 1) == "1.8"


def test_additions_to_question_answering(registry: Registry) -> None:
    """9.3 M: STG-CMA's head of 8,572,716 and what is added to the backbone, 0.761 M, for clips of ten segments."""
    found = count(registry)
    assert found.added == 760_832
    assert millions(found.added, 3) == "0.761"
    assert millions(found.added + 8_572_716, 1) == "9.3"


@pytest.mark.parametrize(("recipe", "frozen"), [(None, 303_446_016), ("base", 86_033_664)])
def test_frozen_share_of_the_printed_totals(registry: Registry, recipe: str | None, frozen: int) -> None:
    """303.4 without what is trained, 87.1 with it; two such towers are the 606.8 of full fine-tuning."""
    resolved = resolve_config(registry, method="stfp", task="ave", recipe=recipe, need_data=False)
    model = assemble(resolved.config, registry, meta=True)
    buffers = dict(model.towers["audio"].named_buffers())
    derived = buffers["kernel"].numel() + buffers["positions_1ND"].numel()
    found = count_parameters(model)
    assert found.frozen + derived == frozen
    if recipe is None:
        assert (millions(frozen, 1), millions(2 * frozen, 1)) == ("303.4", "606.9")
    else:
        assert millions(frozen + found.trainable, 1) == "87.1"


@pytest.mark.parametrize(
    ("sets", "difference"),
    [
        (("parts.stfp.base.class_token=none",), -768),
        (("parts.stfp.base.final_norm=false",), -2 * 768),
        # One gate for each of 12 heads, for both streams and all 12 blocks.
        (("parts.stfp.base.class_token=none", "parts.stfp.temporal.gate=heads"), 2 * 12 * 12 - 768),
        (("parts.stfp.temporal.form=unprojected",), 0),
        (("parts.stfp.temporal.form=tokens",), 0),
        (("parts.stfp.temporal.own_pass=false",), 0),
        (("parts.stfp.spatial.normed=false",), 0),
        (("parts.stfp.joint.form=merged",), 0),
        (("parts.stfp.joint.form=tokens",), 0),
        (("parts.stfp.joint.form=latents",), 0),
        (("parts.stfp.temporal.gate=zero",), 24),
        (("parts.stfp.joint.gate=zero",), 24),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else None,
)
def test_every_alternative_has_the_count_it_should(registry: Registry, sets: tuple[str, ...], difference: int) -> None:
    assert count(registry, *sets, recipe="base").trainable == 1_095_965 + difference


def test_one_class_token_for_both_streams(registry: Registry) -> None:
    both = (*NO_GATES, "parts.stfp.base.class_token=none")
    resolved = resolve_config(
        registry,
        method="stfp",
        task="ave",
        recipe="base",
        fusions="stfp.joint+stfp.class_token",
        sets=both,
        need_data=False,
    )
    assert count_parameters(assemble(resolved.config, registry, meta=True)).trainable == 1_095_965


def test_the_table_says_where_the_poster_counts_differently(registry: Registry) -> None:
    resolved = resolve_config(registry, method="stfp", task="ave", need_data=False)
    assert resolved.recipe is not None
    model = assemble(resolved.config, registry, meta=True)
    text = count_parameters(model, resolved.recipe.published).render(resolved.config.visual.backbone)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["stfp.temporal"][1:] == ["144", "196,656", "196,656"]
    assert lines["stfp.spatial"][1:] == ["48", "491,520", "491,520"]
    assert lines["stfp.joint"][1:] == ["72", "49,200", "49,200"]
    assert lines["stfp.base"][1:] == ["3", "3,072", "3,072"]
    assert lines["trainable_M"][1:3] == ["1.82", "1.82"]
    assert lines["total_M"][1:3] == ["303.4", "305.00"]
    assert "trainable_M: 1,824,797 without the 96 gates" in text
    assert "total_M: the printed total is the frozen encoder alone" in text
