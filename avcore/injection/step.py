"""One step of the forward: a block of each stream, or of one, with the layers of all parts at its sites.

Every layer sees the same real tokens, those before any update of the site; then both streams are updated at once.
A step holds no parameters and no integer of its own, so that equal steps share one compiled graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from avcore.backbones.base import Block, Phases, Projection
from avcore.backbones.copies import trained_within
from avcore.errors import AssemblyError
from avcore.injection.align import AlignLayer
from avcore.injection.merge import MergedEdit, Owner, merge_edits, wrong_shape
from avcore.injection.parts import Edit, Edits, Fusion, FusionLayer, Layer, Part, Prompt, PromptLayer
from avcore.injection.phases import run_together
from avcore.injection.recompute import Recomputed
from avcore.injection.views import BlockView, PairView, SideView
from avcore.specs import STREAMS

__all__ = ["Mounted", "Step", "sites_of"]

T = TypeVar("T")

Streams = dict[str, Tensor]
Carried = dict[Owner, Tensor]
Told = list[tuple[str, str, Tensor]]
"""What layers tell beside what they do: which field of an `Edit`, the key, the tensor."""
TELLING = ("offer", "sums", "statistics")


def sites_of(thing: type, base: type) -> frozenset[str]:
    """The sites that a class overrides: those whose function is no longer the base class's."""
    return frozenset(
        name
        for name, function in vars(base).items()
        if not name.startswith("_") and callable(function) and getattr(thing, name) is not function
    )


@dataclass(frozen=True)
class Mounted:
    """A layer in its place: whose it is, on which streams it acts, which sites it takes part in.

    ``as_own`` and ``maps`` are what a fusion reads of the other stream as its own, and through which maps.
    """

    name: str
    part: Part
    layer: Layer
    streams: tuple[str, ...]
    as_own: tuple[str, ...] = ()
    maps: AlignLayer | None = None

    @property
    def is_fusion(self) -> bool:
        """It reads both streams."""
        return isinstance(self.part, Fusion)

    @property
    def sites(self) -> frozenset[str]:
        """The sites that the layer's class overrides."""
        return sites_of(type(self.layer), FusionLayer if self.is_fusion else PromptLayer)

    @property
    def reads_only(self) -> bool:
        """The whole part only reads: its layers see detached tokens, and the backbones run without a graph for it."""
        base, kind = (FusionLayer, Fusion) if self.is_fusion else (PromptLayer, Prompt)
        if "after_embedding" in sites_of(type(self.part), kind):
            return False
        return all(sites_of(type(layer), base) == {"read"} for layer in self.part.layers.values())

    def offer_name(self, name: str) -> str:
        """The key of an offer in ``features.offers``."""
        return f"{self.name}.{name}" if self.is_fusion else f"{self.name}.{self.streams[0]}.{name}"


class Step(nn.Module):
    """One entry of the plan.

    Args:
        blocks: the frozen block of each stream that runs.
        mounted: the layers, in the order in which parts are listed.
        segments: T.
        atomic_audio: audio's attention and MLP run back to back, before the increments of ``attention`` are added.
        recompute: the backward pass makes again what layers do.

    Attributes:
        again: calls a function that finds what trains in this step, and lets the backward pass make it again.
    """

    def __init__(
        self,
        blocks: Mapping[str, Block],
        mounted: Sequence[Mounted],
        *,
        segments: int,
        atomic_audio: bool,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = dict(blocks)
        self.segments = segments
        self.recompute = recompute
        self.again = Recomputed(_own_modules(blocks, mounted))
        self.atomic = frozenset({"audio"} if atomic_audio and "audio" in blocks else ())
        self.at_site: dict[str, list[Mounted]] = {}
        for place in mounted:
            for site in place.sites:
                self.at_site.setdefault(site, []).append(place)
        self._meeting = tuple(place for place in self.at_site.get("projection", ()) if place.is_fusion)
        both = [*(place for place in self.at_site.get("mlp_output", ()) if place.is_fusion), *self._meeting]
        if self.atomic and both:
            names = ", ".join(dict.fromkeys(place.name for place in both))
            raise AssemblyError(
                f"'{names}' acts within both MLPs at once, but audio blocks run atomically in this plan "
                "(plan.atomic_audio)."
            )
        self._readers = [(place, place.reads_only) for place in self.at_site.get("read", ())]
        self._senders = frozenset(
            (place.name, stream) for place in self.at_site.get("attention", ()) for stream in place.streams
        )
        own = [place for place in self.at_site.get("projection", ()) if not place.is_fusion]
        layers = {stream: tuple(place.layer for place in own if stream in place.streams) for stream in blocks}
        # Not by a closure, with which a deep copy would go on to call these layers instead of its own.
        self.projections: dict[str, Projection | None] = {
            stream: partial(_project, found) if found else None for stream, found in layers.items()
        }

    def forward(
        self, x: Streams, carried: Carried, bias: Mapping[str, Tensor] | None = None
    ) -> tuple[Streams, Carried, Told]:
        """Run the step.

        Args:
            x: tokens (M, N, D) of each stream; a stream that rests is passed through.
            carried: rows that parts sent on from steps before; those of a part that has no layer here wait.
            bias: by stream, what the attention is given as ``bias_HNN``.

        Returns:
            Tokens, the rows sent on, and what the layers told.
        """
        run = self._run
        for block in dict.fromkeys(self.blocks.values()):
            run = partial(block, run=run)
        made: tuple[Streams, Carried, Told] = run(x, carried, bias or {})
        return made

    def _run(self, x: Streams, carried: Carried, bias: Mapping[str, Tensor]) -> tuple[Streams, Carried, Told]:
        told: Told = []
        x = self._add_now(x, "before_attention", carried, told)
        x, sent = self._attention(x, carried, bias, told)
        x = self._add_now(x, "before_mlp", carried, told)
        x, sent = self._mlp(x, sent, carried, told)
        for place, detached in self._readers:
            seen = {stream: tokens.detach() for stream, tokens in x.items()} if detached else x
            found: Mapping[str, Tensor] | Edit = self._call(place, "read", seen, carried)
            told += self._told(place, found if isinstance(found, Edit) else Edit(offer=found), x)
        waiting = {owner: rows for owner, rows in carried.items() if owner not in self._senders}
        return x, {**waiting, **sent}, told

    def _attention(
        self, x: Streams, carried: Carried, bias: Mapping[str, Tensor], told: Told
    ) -> tuple[Streams, Carried]:
        edits = self._edits("attention", x, carried, told)
        out: Streams = {}
        flowing: Streams = {}
        for stream, (made, carry) in self._attended(x, edits, carried, bias).items():
            out[stream] = made
            kept = edits[stream].carry
            if kept is not None and carry is not None:
                flowing[stream] = self.blocks[stream].after_sum("attention", kept + carry)
        out = self._transform("attention_output", out, x, carried)
        updated = dict(x)
        for stream, block in self.blocks.items():
            tokens, add = x[stream] + out[stream], edits[stream].add
            if stream in self.atomic:
                tokens = block.after_sum("attention", tokens)
                tokens, flowing = self._frozen_mlp(stream, tokens, flowing, carried)
                updated[stream] = _plus(tokens, add)
            else:
                updated[stream] = block.after_sum("attention", _plus(tokens, add))
        sent: Carried = {}
        for stream, rows in flowing.items():
            sent |= edits[stream].split_carry(rows)
        return updated, sent

    def _attended(
        self, x: Streams, edits: Mapping[str, MergedEdit], carried: Carried, bias: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor | None]]:
        """The increments of the frozen attention; of both streams side by side where a fusion reads both within."""
        given: dict[str, dict[str, Any]] = {
            stream: {"rows": edit.rows, "carry": edit.carry, "kv": edit.kv, "row_bias_R": edit.row_bias_R}
            for stream, edit in edits.items()
        }
        for stream, of_keys in bias.items():
            given[stream]["bias_HNN"] = of_keys
        if self._meeting:
            runs = {s: block.attention_phases(x[s], **given[s]) for s, block in self.blocks.items()}
            return self._together(runs, x, carried)
        return {s: block.attention(x[s], **given[s], project=self.projections[s]) for s, block in self.blocks.items()}

    def _together(self, runs: dict[str, Phases[T]], x: Streams, carried: Carried) -> dict[str, T]:
        views = [self._view(place, x, carried) for place in self._meeting]

        def meet(name: str, seen: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
            total: dict[str, Tensor | None] = dict.fromkeys(seen)
            for place, view in zip(self._meeting, views, strict=True):
                layer: Any = place.layer
                made = layer.projection(name, *(seen[stream] for stream in place.streams), view)
                for stream, increment in zip(place.streams, made, strict=True):
                    if increment is not None:
                        before = total[stream]
                        increment = increment.to(x[stream].dtype)
                        total[stream] = increment if before is None else before + increment
            return total

        return run_together(runs, self.projections, {stream: x[stream].shape[1] for stream in runs}, meet)

    def _mlp(self, x: Streams, sent: Carried, carried: Carried, told: Told) -> tuple[Streams, Carried]:
        edits = self._edits("mlp", x, carried, told)
        out: Streams = {}
        sent = dict(sent)
        owned = {
            stream: [owner for owner in sent if owner[1] == stream]
            for stream in self.blocks
            if stream not in self.atomic
        }
        whole = {
            stream: torch.cat([x[stream], *(sent[owner] for owner in owners)], dim=1) if owners else x[stream]
            for stream, owners in owned.items()
        }
        for stream, made in self._through_mlp(whole, x, carried).items():
            owners = owned[stream]
            if owners:
                made, *pieces = made.split([x[stream].shape[1], *(sent[owner].shape[1] for owner in owners)], dim=1)
                after = partial(self.blocks[stream].after_sum, "mlp")
                sent |= {owner: after(sent[owner] + piece) for owner, piece in zip(owners, pieces, strict=True)}
            out[stream] = made
        out = self._transform("mlp_output", out, x, carried)
        updated = dict(x)
        for stream, block in self.blocks.items():
            add = edits[stream].add
            if stream in out:
                updated[stream] = block.after_sum("mlp", _plus(x[stream] + out[stream], add))
            else:
                updated[stream] = _plus(x[stream], add)
        return updated, sent

    def _through_mlp(self, whole: Streams, x: Streams, carried: Carried) -> Streams:
        if self._meeting:
            return self._together({s: self.blocks[s].mlp_phases(tokens) for s, tokens in whole.items()}, x, carried)
        return {s: self.blocks[s].mlp(tokens, project=self.projections[s]) for s, tokens in whole.items()}

    def _frozen_mlp(self, stream: str, tokens: Tensor, flowing: Streams, carried: Carried) -> tuple[Tensor, Streams]:
        block, project = self.blocks[stream], self.projections[stream]
        out = self._transform("mlp_output", {stream: block.mlp(tokens, project=project)}, {stream: tokens}, carried)
        if stream in flowing:
            rows = flowing[stream]
            flowing = {**flowing, stream: block.after_sum("mlp", rows + block.mlp(rows, project=project))}
        return block.after_sum("mlp", tokens + out[stream]), flowing

    def _add_now(self, x: Streams, site: str, carried: Carried, told: Told) -> Streams:
        if site not in self.at_site:
            return x
        edits = self._edits(site, x, carried, told)
        return {**x, **{stream: _plus(x[stream], edits[stream].add) for stream in self.blocks}}

    def _edits(self, site: str, x: Streams, carried: Carried, told: Told) -> dict[str, MergedEdit]:
        found: dict[str, list[tuple[Owner, Edit]]] = {stream: [] for stream in self.blocks}
        for place in self.at_site.get(site, ()):
            made: Edit | Edits = self._call(place, site, x, carried)
            wanted = Edits if place.is_fusion else Edit
            if not isinstance(made, wanted):
                raise AssemblyError(
                    f"Part '{place.name}' returns a {type(made).__name__} at '{site}', where {wanted.__name__} belongs."
                )
            sides = {place.streams[0]: made} if isinstance(made, Edit) else {s: getattr(made, s) for s in STREAMS}
            for stream, edit in sides.items():
                if edit is None:
                    continue
                if site != "attention" and (edit.rows is not None or edit.carry is not None or edit.kv is not None):
                    raise AssemblyError(
                        f"Part '{place.name}' returns rows, carry or kv at '{site}': only 'attention' takes them."
                    )
                found[stream].append(((place.name, stream), edit))
                told += self._told(place, edit, x)
        return {
            stream: merge_edits(
                found[stream],
                x[stream],
                block.neutral_row_bias,
                segments=self.segments,
                pieces=block.takes_pieces,
            )
            for stream, block in self.blocks.items()
        }

    def _told(self, place: Mounted, edit: Edit, x: Streams) -> Told:
        clips = x[place.streams[0]].shape[0] // self.segments
        for kind in ("sums", "statistics"):
            for name, tensor in getattr(edit, kind).items():
                if tensor.dim() and tensor.shape[0] != clips:
                    raise AssemblyError(
                        f"Part '{place.name}' gives '{name}' of {tuple(tensor.shape)} among its {kind}: they are one "
                        f"number, (), or one for each clip, (B, ...) with B = {clips} here."
                    )
        return [
            (kind, place.offer_name(name), tensor.detach() if kind == "statistics" else tensor)
            for kind in TELLING
            for name, tensor in getattr(edit, kind).items()
        ]

    def _transform(self, site: str, out: Streams, x: Streams, carried: Carried) -> Streams:
        for place in self.at_site.get(site, ()):
            # A stream that runs atomically is transformed within its own attention update.
            if not all(stream in out for stream in place.streams):
                continue
            view = self._view(place, x, carried)
            before = [out[stream] for stream in place.streams]
            made = self._act(place, site, *before, *(x[stream] for stream in place.streams), view)
            after = made if place.is_fusion else (made,)
            for stream, new in zip(place.streams, after, strict=True):
                if new.shape != out[stream].shape:
                    raise wrong_shape((place.name, stream), site, new, x[stream], "(M, N, D)")
            out = {**out, **{s: new.to(x[s].dtype) for s, new in zip(place.streams, after, strict=True)}}
        return out

    def _call(self, place: Mounted, site: str, x: Streams, carried: Carried) -> Any:
        return self._act(place, site, *(x[stream] for stream in place.streams), self._view(place, x, carried))

    def _act(self, place: Mounted, site: str, *given: Any) -> Any:
        function: Any = getattr(place.layer, site)
        if self.recompute and site != "read" and place.layer.made_again:
            return self.again(function, *given)
        return function(*given)

    def _view(self, place: Mounted, x: Streams, carried: Carried) -> BlockView | PairView:
        given: dict[str, dict[str, Any]] = {
            stream: {
                "B": x[stream].shape[0] // self.segments,
                "T": self.segments,
                "part": place.part,
                "block": self.blocks[stream],
                "project": self.projections[stream],
                "tokens": x[stream],
                "carried": carried.get((place.name, stream)),
            }
            for stream in place.streams
        }
        if not place.is_fusion:
            return BlockView(**given[place.streams[0]])
        visual, audio = (
            SideView(**given[stream], stream=stream, owner=place.name, declared=place.as_own, maps=place.maps)
            for stream in STREAMS
        )
        return PairView(visual=visual, audio=audio, part=place.part)


def _own_modules(blocks: Mapping[str, Block], mounted: Sequence[Mounted]) -> Iterator[nn.Module]:
    """All that trains in a step: layers, what their parts share, maps between the streams, copies within blocks."""
    for place in mounted:
        yield from place.layer.modules()
        layers = set(place.part.layers.modules())
        yield from (module for module in place.part.modules() if module not in layers)
        if place.maps is not None:
            yield from place.maps.modules()
    for block in blocks.values():
        yield from trained_within(block)


def _plus(x_MND: Tensor, add: Tensor | None) -> Tensor:
    return x_MND if add is None else x_MND + add


def _project(layers: Sequence[Any], name: str, x: Tensor) -> Tensor | None:
    total: Tensor | None = None
    for layer in layers:
        increment: Tensor | None = layer.projection(name, x)
        if increment is not None:
            total = increment if total is None else total + increment
    return total
