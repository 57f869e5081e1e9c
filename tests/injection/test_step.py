"""The sites: order, merging rules, both streams at once, and nothing where no part acts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avcore.backbones import Block, Projection
from avcore.errors import AVCoreError
from avcore.injection import (
    BlockView,
    Edit,
    Edits,
    Fusion,
    FusionLayer,
    Layer,
    Mounted,
    PairView,
    Prompt,
    PromptLayer,
    Step,
)
from avcore.specs import StageLayout, StreamLayout

WIDTH = 4
STREAM = StreamLayout(stages=(StageLayout(width=WIDTH, heads=1, depth=1, grid=(1, 3)),), segments=2, taps=(0,))


class ToyBlock(Block):
    """A(x) = mean of tokens, carried rows, rows and values; M(x) = x * 2. Notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, object]] = []

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    def attention(
        self,
        x_MND: Tensor,
        *,
        rows: Tensor | None = None,
        carry: Tensor | None = None,
        kv: tuple[Tensor, Tensor] | None = None,
        row_bias_R: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        windowed: bool = True,
        project: Projection | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        self.calls.append({"rows": rows, "carry": carry, "kv": kv, "row_bias": row_bias_R, "x": x_MND})
        whole = x_MND if carry is None else torch.cat([x_MND, carry], dim=1)
        seen = [whole]
        if rows is not None:
            seen.append(rows.expand(x_MND.shape[0], -1, -1))
        if kv is not None:
            seen.append(kv[1].expand(x_MND.shape[0], -1, -1))
        out = torch.cat(seen, dim=1).mean(1, keepdim=True).expand_as(whole)
        if project is not None and (increment := project("qkv", x_MND)) is not None:
            out = out + increment
        tokens = x_MND.shape[1]
        return out[:, :tokens], None if carry is None else out[:, tokens:]

    def mlp(self, x_MND: Tensor, *, project: Projection | None = None) -> Tensor:
        return x_MND * 2


@dataclass
class Rig:
    """A step with toy blocks and what it needs to be called."""

    step: Step
    blocks: dict[str, ToyBlock]
    x: dict[str, Tensor]

    def run(self, carried: Mapping[tuple[str, str], Tensor] | None = None) -> tuple[dict[str, Tensor], dict, list]:
        return self.step(dict(self.x), dict(carried or {}))


def prompt(name: str, layer: PromptLayer, stream: str = "visual") -> Mounted:
    part = Prompt(None, STREAM)
    part.layers["0"] = layer
    return Mounted(name=name, part=part, layer=layer, streams=(stream,))


def fusion(name: str, layer: FusionLayer) -> Mounted:
    part = Fusion(None, STREAM, STREAM)
    part.layers["0"] = layer
    return Mounted(name=name, part=part, layer=layer, streams=("visual", "audio"))


def rig(*mounted: Mounted, atomic_audio: bool = False) -> Rig:
    torch.manual_seed(0)
    blocks = {"visual": ToyBlock(), "audio": ToyBlock()}
    x = {stream: torch.randn(4, 3, WIDTH, dtype=torch.float64) for stream in blocks}
    return Rig(Step(blocks, mounted, segments=2, atomic_audio=atomic_audio), blocks, x)


def plain(x: Tensor) -> Tensor:
    x = x + x.mean(1, keepdim=True)
    return x + x * 2


class Rows(PromptLayer):
    def __init__(self, count: int, bias: float | None = None, batched: bool = False) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(count, WIDTH))
        self.bias, self.batched = bias, batched

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(rows=self.rows.expand(4, -1, -1) if self.batched else self.rows, row_bias=self.bias)


def test_without_parts_a_step_is_the_plain_block() -> None:
    made = rig()
    out, carried, offers = made.run()
    for stream in ("visual", "audio"):
        assert torch.equal(out[stream], plain(made.x[stream]))
    assert not carried
    assert not offers


def test_a_part_touches_its_stream_only() -> None:
    made = rig(prompt("rows", Rows(2), "audio"))
    out, _, _ = made.run()
    assert torch.equal(out["visual"], plain(made.x["visual"]))
    assert not torch.equal(out["audio"], plain(made.x["audio"]))


def test_rows_concatenate_in_the_order_of_the_parts_and_keep_their_own_type() -> None:
    first, second = Rows(2), Rows(3)
    made = rig(prompt("a", first), prompt("b", second))
    made.run()
    seen = made.blocks["visual"].calls[0]["rows"]
    assert isinstance(seen, Tensor)
    assert seen.dtype == torch.float64
    assert torch.equal(seen, torch.cat([first.rows, second.rows]).double())


class InPieces(PromptLayer):
    """Two rows for all, one of each of two segments."""

    def __init__(self) -> None:
        super().__init__()
        self.common, self.segments = nn.Parameter(torch.randn(2, WIDTH)), nn.Parameter(torch.randn(2, 1, WIDTH))

    def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
        return Edit(rows=(self.common, self.segments), row_bias=1.5)


def test_rows_in_pieces_become_one_tensor_for_blocks_that_take_no_pieces() -> None:
    layer = InPieces()
    made = rig(prompt("pieces", layer))
    made.run()
    call = made.blocks["visual"].calls[0]
    wanted = torch.cat([layer.common.expand(4, -1, -1), layer.segments.repeat(2, 1, 1)], dim=1)
    assert isinstance(call["rows"], Tensor)
    assert torch.equal(call["rows"], wanted.double())
    assert isinstance(call["row_bias"], Tensor)
    assert call["row_bias"].tolist() == [1.5] * 3


def test_rows_stay_in_pieces_for_blocks_that_take_them() -> None:
    class TakesPieces(ToyBlock):
        takes_pieces = True

        def attention(self, x_MND: Tensor, *, rows: Any = None, **given: Any) -> tuple[Tensor, Tensor | None]:
            assert [piece.shape for piece in rows] == [(2, WIDTH), (2, 1, WIDTH), (2, WIDTH)]
            return x_MND, None

    block = TakesPieces()
    x = torch.randn(4, 3, WIDTH, dtype=torch.float64)
    step = Step({"visual": block}, [prompt("one", InPieces()), prompt("two", Rows(2))], segments=2, atomic_audio=False)
    step({"visual": x}, {})


def test_rows_common_to_the_batch_meet_rows_of_each_frame() -> None:
    made = rig(prompt("a", Rows(2)), prompt("b", Rows(1, batched=True)))
    made.run()
    seen = made.blocks["visual"].calls[0]["rows"]
    assert isinstance(seen, Tensor)
    assert seen.shape == (4, 3, WIDTH)


def test_row_bias_is_neutral_unless_named() -> None:
    class Prefix(PromptLayer):
        def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
            return Edit(kv=(torch.zeros(2, WIDTH), torch.zeros(2, WIDTH)))

    made = rig(prompt("a", Rows(2)), prompt("b", Rows(1, bias=3.0)), prompt("c", Prefix()))
    made.run()
    seen = made.blocks["visual"].calls[0]["row_bias"]
    assert isinstance(seen, Tensor)
    assert seen.tolist() == [0, 0, 3, 0, 0]
    neutral = rig(prompt("a", Rows(2)))
    neutral.run()
    assert neutral.blocks["visual"].calls[0]["row_bias"] is None


def test_increments_add_after_the_frozen_attention_and_mlp() -> None:
    class Adder(PromptLayer):
        def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
            return Edit(add=x_MND * 10)

        def mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
            return Edit(add=x_MND * 100)

    made = rig(prompt("a", Adder()), prompt("b", Adder()))
    out, _, _ = made.run()
    x = made.x["visual"]
    x = x + x.mean(1, keepdim=True) + 20 * x
    assert torch.allclose(out["visual"], x + 2 * x + 200 * x)


def test_both_streams_are_read_before_either_is_updated() -> None:
    class Swap(FusionLayer):
        def before_attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
            return Edits(visual=Edit(add=audio_MND), audio=Edit(add=visual_MND))

        def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
            return Edits(visual=Edit(add=audio_MND))

    made = rig(fusion("swap", Swap()))
    out, _, _ = made.run()
    both = made.x["visual"] + made.x["audio"]
    after = both + both.mean(1, keepdim=True)
    assert torch.allclose(out["audio"], after * 3)
    assert torch.allclose(out["visual"], after * 4)


def test_passes_before_the_mlp_see_what_attention_made() -> None:
    class Pass(PromptLayer):
        def before_mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
            return Edit(add=at.from_time(at.attend(at.over_time(x_MND))))

    made = rig(prompt("pass", Pass()))
    out, _, _ = made.run()
    x = made.x["visual"]
    x = x + x.mean(1, keepdim=True)
    over_time = x.unflatten(0, (2, 2)).mean(1, keepdim=True).expand(2, 2, 3, WIDTH).flatten(0, 1)
    assert torch.allclose(out["visual"], (x + over_time) * 3)


def test_transforms_compose_and_see_the_increment_alone() -> None:
    class Halve(PromptLayer):
        def attention_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
            return out_MND / 2

        def mlp_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
            return out_MND + 1

    class Exchange(FusionLayer):
        def attention_output(
            self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
        ) -> tuple[Tensor, Tensor]:
            return out_audio, out_visual

    made = rig(prompt("a", Halve()), fusion("b", Exchange()))
    out, _, _ = made.run()
    mean = {stream: x.mean(1, keepdim=True) for stream, x in made.x.items()}
    visual = made.x["visual"] + mean["audio"]
    audio = made.x["audio"] + mean["visual"] / 2
    assert torch.allclose(out["visual"], visual * 3 + 1)
    assert torch.allclose(out["audio"], audio * 3)


def test_carried_rows_flow_and_come_back_to_their_owner() -> None:
    class Carry(PromptLayer):
        def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
            start = torch.ones(1, WIDTH, dtype=torch.float64)
            return Edit(carry=start if at.carried is None else at.carried)

    made = rig(prompt("a", Carry()), prompt("b", Rows(2)))
    out, sent, _ = made.run()
    assert set(sent) == {("a", "visual")}
    x, ones = made.x["visual"], torch.ones(4, 1, WIDTH, dtype=torch.float64)
    rows = made.blocks["visual"].calls[0]["rows"]
    assert isinstance(rows, Tensor)
    mean = torch.cat([x, ones, rows.expand(4, -1, -1)], dim=1).mean(1, keepdim=True)
    assert torch.allclose(sent["a", "visual"], (ones + mean) * 3)
    assert out["visual"].shape == x.shape
    made.run(sent)
    assert made.blocks["visual"].calls[1]["carry"] is not None
    assert torch.equal(made.blocks["visual"].calls[1]["carry"], sent["a", "visual"])  # type: ignore[arg-type]


def test_carried_rows_wait_where_their_owner_has_no_layer() -> None:
    class Ends(PromptLayer):
        def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
            return Edit()

    waiting = {("a", "visual"): torch.randn(4, 1, WIDTH, dtype=torch.float64)}
    made = rig(prompt("b", Rows(2)))
    out, sent, _ = made.run(waiting)
    assert sent == waiting
    assert torch.equal(out["visual"], made.run()[0]["visual"])
    assert rig(prompt("a", Ends())).run(waiting)[1] == {}


def test_carried_rows_of_a_stream_that_rests_wait() -> None:
    made = rig()
    alone = Step({"visual": made.blocks["visual"]}, [], segments=2, atomic_audio=False)
    waiting = {("a", "audio"): torch.randn(4, 1, WIDTH, dtype=torch.float64)}
    assert alone(dict(made.x), dict(waiting))[1] == waiting


def test_atomic_audio_runs_attention_and_mlp_back_to_back() -> None:
    class Adder(FusionLayer):
        def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
            return Edits(visual=Edit(add=audio_MND), audio=Edit(add=visual_MND))

        def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
            return Edits(audio=Edit(add=torch.ones_like(audio_MND)))

    made = rig(fusion("a", Adder()), atomic_audio=True)
    out, _, _ = made.run()
    assert torch.allclose(out["audio"], plain(made.x["audio"]) + made.x["visual"] + 1)


def test_atomic_audio_refuses_a_fusion_of_both_mlp_increments() -> None:
    class Mixer(FusionLayer):
        def mlp_output(
            self, out_visual: Tensor, out_audio: Tensor, visual_MND: Tensor, audio_MND: Tensor, at: PairView
        ) -> tuple[Tensor, Tensor]:
            return out_audio, out_visual

    with pytest.raises(AVCoreError, match="'mixer' acts within both MLPs at once"):
        rig(fusion("mixer", Mixer()), atomic_audio=True)


def test_projections_of_several_layers_add() -> None:
    class Low(PromptLayer):
        def projection(self, name: str, x: Tensor) -> Tensor | None:
            return x if name == "qkv" else None

    made = rig(prompt("a", Low()), prompt("b", Low()))
    out, _, _ = made.run()
    x = made.x["visual"]
    assert torch.allclose(out["visual"], (x + x.mean(1, keepdim=True) + 2 * x) * 3)


def test_offers_carry_the_name_of_part_and_stream() -> None:
    class Offer(PromptLayer):
        def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
            return Edit(offer={"map": x_MND})

    class Reader(FusionLayer):
        def read(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Mapping[str, Tensor]:
            return {"sum": visual_MND + audio_MND}

    _, _, offers = rig(prompt("a", Offer(), "audio"), fusion("b", Reader())).run()
    assert [name for _, name, _ in offers] == ["a.audio.map", "b.sum"]


def test_a_part_that_only_reads_gets_detached_tokens() -> None:
    class Reader(PromptLayer):
        def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor]:
            return {"tokens": x_MND}

    class ReadsAndActs(Reader):
        def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
            return Edit(add=x_MND)

    for layer, expected in ((Reader(), False), (ReadsAndActs(), True)):
        made = rig(prompt("a", layer))
        made.x["visual"].requires_grad_()
        _, _, offers = made.run()
        assert offers[0][2].requires_grad is expected


def test_a_part_that_adds_to_the_embedding_too_does_not_only_read() -> None:
    class Reader(PromptLayer):
        def read(self, x_MND: Tensor, at: BlockView) -> Mapping[str, Tensor]:
            return {"tokens": x_MND}

    class Both(Prompt):
        def after_embedding(self, x_MND: Tensor, at: object) -> Tensor:
            return x_MND

    place = prompt("a", Reader())
    part = Both(None, STREAM)
    part.layers["0"] = place.layer
    made = rig(Mounted(name="a", part=part, layer=place.layer, streams=("visual",)))
    made.x["visual"].requires_grad_()
    assert made.run()[2][0][2].requires_grad
    assert place.reads_only


def test_a_fusion_that_adds_to_the_embeddings_too_does_not_only_read() -> None:
    class Reader(FusionLayer):
        def read(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Mapping[str, Tensor]:
            return {"sum": visual_MND + audio_MND}

    class Both(Fusion):
        def after_embedding(self, visual_MND: Tensor, audio_MND: Tensor, at: object) -> tuple[Tensor, Tensor]:
            return visual_MND, audio_MND

    place = fusion("a", Reader())
    part = Both(None, STREAM, STREAM)
    part.layers["0"] = place.layer
    assert place.reads_only
    assert not Mounted(name="a", part=part, layer=place.layer, streams=place.streams).reads_only


def test_rows_at_the_mlp_are_an_error() -> None:
    class Wrong(PromptLayer):
        def mlp(self, x_MND: Tensor, at: BlockView) -> Edit:
            return Edit(rows=torch.zeros(1, WIDTH))

    with pytest.raises(AVCoreError, match="'wrong' returns rows, carry or kv at 'mlp'"):
        rig(prompt("wrong", Wrong())).run()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            Edit(add=torch.zeros(4, 1, WIDTH + 1)),
            r"'wrong' gives 'add' of \(4, 1, 5\) for visual tokens of \(4, 3, 4\)",
        ),
        (Edit(add=torch.zeros(2, 4, 3, WIDTH)), "gives 'add' of"),
        (Edit(rows=torch.zeros(2, WIDTH - 1)), r"gives 'rows' of \(2, 3\).*which take \(R, D\), \(T, R, D\) or"),
        (Edit(carry=torch.zeros(3, 2, WIDTH)), "gives 'carry' of"),
        (Edit(kv=(torch.zeros(2, WIDTH), torch.zeros(2, 2 * WIDTH))), r"gives 'kv' of \(2, 8\).*Need.EQUAL_WIDTHS"),
        (torch.zeros(4, 3, WIDTH), "'wrong' returns a Tensor at 'attention', where Edit belongs"),
    ],
)
def test_what_does_not_fit_the_tokens_is_refused_by_the_name_of_its_part(edit: Edit, message: str) -> None:
    class Wrong(PromptLayer):
        def attention(self, x_MND: Tensor, at: BlockView) -> Edit:
            return edit

    with pytest.raises(AVCoreError, match=message):
        rig(prompt("wrong", Wrong())).run()


def test_a_transform_that_changes_the_shape_is_refused() -> None:
    class Wrong(PromptLayer):
        def attention_output(self, out_MND: Tensor, x_MND: Tensor, at: BlockView) -> Tensor:
            return out_MND[:, :1]

    with pytest.raises(AVCoreError, match=r"'wrong' gives 'attention_output' of \(4, 1, 4\)"):
        rig(prompt("wrong", Wrong())).run()


def test_sites_are_what_a_class_overrides() -> None:
    assert prompt("a", Rows(1)).sites == {"attention"}
    assert issubclass(PromptLayer, Layer)
    assert prompt("a", PromptLayer()).sites == frozenset()
