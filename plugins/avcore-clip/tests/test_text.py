"""The text tower equals open_clip's own ``encode_text``, and the sites of parts do in it what they say."""

from typing import Any

import pytest
import torch
from torch import Tensor

from avcore import compat
from avcore.backbones import TextTower, digest, without_blocks
from avcore.errors import AVCoreError
from avcore.specs import TextGeometry, resolve
from avcore_clip import TEST_CLIP_TEXT
from avcore_clip.settings import TextSettings
from avcore_clip.text import ClipText, ClipTextTower, build, causal_bias

SENTENCES = ["a dog barks", "rain", "somebody plays the violin in a hall"]
VISION = {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}
KINDS: dict[str, dict[str, Any]] = {
    "openai": {"quick_gelu": True},
    "plain": {},
    "both ways": {"no_causal_mask": True},
    "last, biased": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}},
    "layer scale": {"ls_init_value": 0.5, "act_kwargs": {"approximate": "tanh"}},
    "end by number": {"pool_type": "eos", "eos_id": 49407},
    "no projection": {"proj_type": "none"},
}


def configuration(kind: str = "plain") -> dict[str, Any]:
    changes = dict(KINDS[kind])
    quick = changes.pop("quick_gelu", False)
    text = {**TEST_CLIP_TEXT["config"]["text_cfg"], **changes}
    return {"embed_dim": 12, "quick_gelu": quick, "text_cfg": text}


def theirs(kind: str) -> Any:
    """open_clip's whole model, every weight random, in float64."""
    compat.install()
    from open_clip.model import CLIP, CustomTextCLIP

    torch.manual_seed(0)
    config = configuration(kind)
    made = (CustomTextCLIP if "proj_bias" in config["text_cfg"] else CLIP)(vision_cfg=VISION, **config)
    moved = {key: value + torch.randn_like(value) * 0.05 for key, value in made.state_dict().items()}
    made.load_state_dict(moved)
    return made.eval().double()


def ours(kind: str, reference: Any = None, **settings: Any) -> ClipTextTower:
    """The tower with the weights of ``reference``, in float64."""
    given = TextSettings(weights="random", **settings)
    backbone = build(given, name="small", preset={"config": configuration(kind)})
    if reference is not None:
        own = without_blocks(backbone.model)
        source = getattr(reference, "text", reference).state_dict()
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(source[key])
    made = backbone.double().tower("text", given, 1)
    assert isinstance(made, ClipTextTower)
    return made


def through(tower: TextTower, ids_KL: Tensor) -> Tensor:
    x = tower.enter(tower.embed(ids_KL))
    for index in range(tower.layout.depth):
        block = tower.block(index)
        x = x + block.attention(x)[0]
        x = x + block.mlp(x)
    return tower.pool(tower.norm(x), ids_KL)


def ids_of(tower: TextTower) -> Tensor:
    ids: Tensor = resolve(tower.geometry.tokenizer)(SENTENCES, length=tower.geometry.length)
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_open_clip(kind: str) -> None:
    reference = theirs(kind)
    tower = ours(kind, reference)
    ids = ids_of(tower)
    pooled = through(tower, ids)
    found = pooled if tower.layout.shared is None else tower.project(pooled)
    expected = reference.encode_text(ids)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_tower_without_projection_says_so() -> None:
    tower = ours("no projection")
    assert tower.layout.shared is None
    with pytest.raises(NotImplementedError, match=r"layout\.shared is None"):
        tower.project(torch.zeros(1, 16))


def test_layout_and_geometry() -> None:
    tower = ours("plain")
    (stage,) = tower.layout.stages
    assert (stage.width, stage.heads, stage.depth, stage.grid, stage.tokens, stage.mlp) == (
        16,
        2,
        3,
        (1, 16),
        16,
        (64, 64),
    )
    assert (tower.layout.shared, tower.layout.pool, tower.layout.taps) == (12, "end", (0, 1, 2))
    assert tower.geometry == TextGeometry(length=16, vocabulary=49408, tokenizer="avcore_clip.tokenizer:tokenize")
    x = tower.embed(ids_of(tower))
    assert tower.map(x, stage).shape == (3, 16, 1, 16)


def test_fewer_ids_give_the_same() -> None:
    reference = theirs("plain")
    whole, short = ours("plain", reference), ours("plain", reference, length=12)
    assert short.layout.stages[0].tokens == 12
    torch.testing.assert_close(through(short, ids_of(short)), through(whole, ids_of(whole)), rtol=0, atol=1e-12)
    with pytest.raises(AVCoreError, match=r"text\.length is 17; the model has positions for 16"):
        ours("plain", length=17)
    with pytest.raises(ValueError, match="at least 3"):
        TextSettings(length=2)


def test_pooling_needs_the_ids() -> None:
    with pytest.raises(ValueError, match="ids"):
        ours("plain").pool(torch.zeros(1, 16, 16))


# --------------------------------------------------------------------------------------------------------------------
# What parts do


def visible(tower: ClipTextTower, **given: Tensor) -> tuple[list[list[bool]], list[list[bool]]]:
    """Which of 4 tokens, 2 carried rows and further rows the queries of the first block see, by their gradients."""
    tokens, carried = 4, given["carry"].shape[1] if "carry" in given else 0
    inputs = {"x": torch.randn(1, tokens, 16, dtype=torch.float64), **given}
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    x = inputs.pop("x")
    out, other = tower.block(0).attention(x, **inputs)  # type: ignore[arg-type]
    queries = list(out[0]) + ([] if other is None else list(other[0]))
    seen = []
    for query in queries:
        grads = torch.autograd.grad(query.sum(), [x, *inputs.values()], retain_graph=True, allow_unused=True)
        seen.append([bool(row.abs().sum() > 0) for grad in grads if grad is not None for row in grad.reshape(-1, 16)])
    return seen[:tokens], seen[tokens : tokens + carried]


def test_tokens_see_themselves_and_those_before() -> None:
    seen, _ = visible(ours("plain"))
    assert seen == [[key <= query for key in range(4)] for query in range(4)]
    both, _ = visible(ours("both ways"))
    assert both == [[True] * 4] * 4


def test_rows_are_seen_by_all() -> None:
    rows = torch.randn(2, 16, dtype=torch.float64)
    seen, _ = visible(ours("plain"), rows=rows)
    assert seen == [[key <= query for key in range(4)] + [True, True] for query in range(4)]


def test_carried_rows_stand_behind_the_first_token() -> None:
    carry = torch.randn(1, 2, 16, dtype=torch.float64)
    seen, rows = visible(ours("plain"), carry=carry)
    assert seen == [[key <= query for key in range(4)] + [True, True] for query in range(4)]
    assert rows == [[True, False, False, False, True, False], [True, False, False, False, True, True]]


def test_carried_rows_equal_tokens_that_are_written_there() -> None:
    tower = ours("plain", theirs("plain"))
    x, carry = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 3, 16, dtype=torch.float64)
    joined = torch.cat([x[:, :1], carry, x[:, 1:]], dim=1)
    expected = tower.block(1).attention(joined)[0]
    found, rows = tower.block(1).attention(x, carry=carry)
    assert rows is not None
    torch.testing.assert_close(torch.cat([rows, found[:, 1:]], dim=1), expected[:, 1:])
    # The first token sees them as it sees rows.
    torch.testing.assert_close(found[:, :1], tower.block(1).attention(x, rows=carry)[0][:, :1])


def test_a_bias_hides_rows_and_kv_follows_rows() -> None:
    tower = ours("plain", theirs("plain"))
    block, x = tower.block(0), torch.randn(2, 5, 16, dtype=torch.float64)
    rows = torch.randn(2, 16, dtype=torch.float64)
    kv = block.keys_values(block.inner.ln_1(rows))
    as_kv = block.attention(x, kv=kv)[0]
    torch.testing.assert_close(block.attention(x, rows=rows)[0], as_kv)
    hidden = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf], dtype=torch.float64)
    torch.testing.assert_close(block.attention(x, rows=rows, kv=kv, row_bias_R=hidden)[0], as_kv)
    shown = block.attention(x, rows=rows, row_bias_R=torch.zeros(2, dtype=torch.float64))[0]
    torch.testing.assert_close(shown, as_kv)


def test_increments_of_the_frozen_maps() -> None:
    tower = ours("plain", theirs("plain"))
    block, x = tower.block(0), torch.randn(2, 5, 16, dtype=torch.float64)
    maps = {"qkv": (16, 48), "proj": (16, 16), "fc1": (16, 64), "fc2": (64, 16)}
    extra = {name: torch.randn(*shape, dtype=torch.float64) * 0.1 for name, shape in maps.items()}
    found = (
        block.attention(x, project=lambda name, u: u @ extra[name])[0],
        block.mlp(x, project=lambda n, u: u @ extra[n]),
    )
    inner = block.inner
    with torch.no_grad():
        inner.attn.in_proj_weight += extra["qkv"].T
        inner.attn.out_proj.weight += extra["proj"].T
        inner.mlp.c_fc.weight += extra["fc1"].T
        inner.mlp.c_proj.weight += extra["fc2"].T
    torch.testing.assert_close(found, (block.attention(x)[0], block.mlp(x)))


def test_a_learnt_context_is_added_where_the_placeholders_stand() -> None:
    tower = ours("plain", theirs("plain"))
    geometry = tower.geometry
    ids: Tensor = resolve(geometry.tokenizer)([f"{geometry.placeholder} " * 3 + "dog"], length=geometry.length)
    places = range(geometry.lead, geometry.lead + 3)
    assert len(set(ids[0, places].tolist())) == 1
    context = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    x = tower.embed(ids)
    x = x + torch.nn.functional.pad(context, (0, 0, geometry.lead, x.shape[1] - geometry.lead - 3))
    for index in range(tower.layout.depth):
        x = x + tower.block(index).attention(x)[0]
        x = x + tower.block(index).mlp(x)
    tower.project(tower.pool(tower.norm(x), ids)).square().sum().backward()
    assert context.grad is not None
    assert (context.grad.abs().sum(1) > 0).all()


def test_what_comes_later_is_hidden_in_the_type_of_the_queries() -> None:
    bias = causal_bias(2, like=torch.zeros(1, dtype=torch.bfloat16))
    assert bias.tolist() == [[0.0, -torch.inf], [0.0, 0.0]]
    assert bias.dtype == torch.bfloat16


# --------------------------------------------------------------------------------------------------------------------
# What is frozen


def test_frozen_weights_stay_as_they_are() -> None:
    tower = ours("openai", theirs("openai"))
    before = digest(tower)
    tower.train()
    assert not tower.training
    context = torch.zeros(1, requires_grad=True)
    x = tower.embed(ids_of(tower)) + context
    x = x + tower.block(0).attention(x)[0]
    tower.project(tower.pool(tower.norm(x), ids_of(tower))).sum().backward()
    assert digest(tower) == before
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    with torch.no_grad():
        tower.trunk.model.text_projection[0, 0] += 1
    assert digest(tower) != before


def test_the_names_of_the_weights() -> None:
    tower = ours("plain")
    names = set(tower.weights())
    assert {"token_embedding.weight", "positional_embedding", "ln_final.weight", "text_projection"} <= names
    assert "transformer.resblocks.2.attn.in_proj_weight" in names
    assert not any(name.startswith("visual") for name in names)
    assert set(tower.trainable) == {"norm"}


def test_other_streams_are_refused() -> None:
    backbone = build(TextSettings(weights="random"), name="small", preset=TEST_CLIP_TEXT)
    assert isinstance(backbone, ClipText)
    with pytest.raises(AVCoreError, match="serves the text stream only, not visual"):
        backbone.tower("visual", TextSettings(), 1)


def test_shapes_need_no_weights() -> None:
    with torch.device("meta"):
        backbone = build(TextSettings(), name="ViT-B-16-quickgelu.openai", preset={})
        tower = backbone.tower("text", TextSettings(), 1)
    assert tower.layout.shared == 512
    assert sum(parameter.numel() for parameter in tower.parameters()) == 63_428_096


def test_it_compiles_into_one_graph() -> None:
    tower = ours("plain")
    block, x = tower.block(0), torch.randn(2, 5, 16, dtype=torch.float64)
    compiled = torch.compile(lambda x: block.attention(x)[0], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), block.attention(x)[0])
