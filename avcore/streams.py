"""Modalities on their way: from raw input through front ends and frozen towers, and the parts on them, to features.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from avcore.backbones import TextTower, Tower
from avcore.backbones.copies import Held, copies_in, standing_in, tensors_in
from avcore.injection import Fusion, Layer, Mounted, Part, PlanEntry, Prompt, Step, StreamView
from avcore.injection.align import AlignLayer
from avcore.injection.step import TELLING
from avcore.modules import at_least_single, full_precision
from avcore.specs import StreamLayout
from avcore.tasks import StreamFeatures, TextFeatures

__all__ = ["PartInstance", "Stream", "Streams", "TextEncoder", "Walked", "as_stored"]


def as_stored(frozen: nn.Module) -> AbstractContextManager[object]:
    """No autocast where frozen weights are in half precision: tokens keep their type by themselves."""
    weight = next(frozen.parameters())
    return full_precision(weight) if torch.finfo(weight.dtype).bits < 32 else nullcontext()


@dataclass(frozen=True)
class PartInstance:
    """A part in the model: its name, the streams it acts on (one for a prompt, both for a fusion), the module.

    ``as_own`` is what it reads of the other stream as its own, ``plugin`` the distribution that offers it, with its
    version.
    """

    name: str
    streams: tuple[str, ...]
    module: Part
    as_own: tuple[str, ...] = ()
    plugin: str = ""

    @property
    def key(self) -> str:
        """Unique in the model, and the beginning of its parameters' names."""
        return f"{self.name}.{self.streams[0]}" if isinstance(self.module, Prompt) else self.name

    def overrides(self, base: type[Part], name: str) -> bool:
        """Its class is a ``base`` and has a function of its own of that name."""
        return isinstance(self.module, base) and getattr(type(self.module), name) is not getattr(base, name)


class Stream(nn.Module):
    """A tower, its front end, and the way in and out.

    Called with raw input it runs the frozen tower alone, without any part, nor what parts train.

    Args:
        name: ``visual``, ``audio``, ``text`` or ``text_audio``.
        tower: the frozen backbone as this stream uses it.
        front_end: raw input to what `Tower.embed` takes.
        segments: T.
    """

    def __init__(self, name: str, tower: Tower, front_end: nn.Module, segments: int) -> None:
        super().__init__()
        self.name = name
        self.tower = tower
        self.front_end = front_end
        self.segments = segments
        # In a list: registered here, what parts train would be this stream's too.
        self._acting = [tower]

    @property
    def acting(self) -> Tower:
        """The tower with the copies that parts train in place of what they are copies of; parts own these."""
        return self._acting[0]

    def train_copies(
        self,
        copies: Mapping[nn.Module, nn.Module],
        made: dict[nn.Module, nn.Module],
        tensors: Mapping[Tensor, Held] | None = None,
    ) -> None:
        """Let copies stand for frozen modules and tensors of the tower wherever parts act; see `standing_in`."""
        self._acting = [standing_in(self.tower, copies, made, tensors)]

    @property
    def layout(self) -> StreamLayout:
        """What parts and heads may know of it."""
        return self.tower.layout

    def forward(self, raw: Tensor) -> StreamFeatures:
        """The frozen tower alone: pictures or sound as `Batch` has them to features."""
        tower = self.tower
        x_MND = tower.enter(tower.embed(self.front_end(raw)))
        tapped = []
        for index in range(self.layout.depth):
            x_MND = self._into_stage(tower, index, x_MND)
            x_MND = tower.block(index)(x_MND)
            if index in self.layout.taps:
                tapped.append(x_MND)
        return self._features(tower, x_MND, tapped)

    def into_stage(self, index: int, x_MND: Tensor) -> Tensor:
        """Tokens as the block of that number takes them: merged where it is the first of its stage."""
        return self._into_stage(self.acting, index, x_MND)

    def _into_stage(self, tower: Tower, index: int, x_MND: Tensor) -> Tensor:
        blocks = self.layout.blocks
        if index and blocks[index].stage != blocks[index - 1].stage:
            return tower.merge(x_MND, blocks[index].stage)
        return x_MND

    def leave(self, x_MND: Tensor, tapped: Sequence[Tensor]) -> StreamFeatures:
        """Tokens behind the last block, and those behind the tapped ones, to features."""
        return self._features(self.acting, x_MND, tapped)

    def _features(self, tower: Tower, x_MND: Tensor, tapped: Sequence[Tensor]) -> StreamFeatures:
        layout, tokens = self.layout, tower.norm(x_MND)
        at_taps = [*tapped[:-1], tokens] if layout.taps[-1] == layout.depth - 1 else tapped
        return StreamFeatures(
            pooled=tower.pool(tokens).reshape(-1, self.segments, layout.width),
            tokens=tokens,
            raw_tokens=x_MND,
            maps=tuple(tower.map(at, stage) for at, stage in zip(at_taps, layout.tapped, strict=True)),
        )


@dataclass(frozen=True)
class Walked:
    """What a walk through `Streams` leaves: the tokens behind the last block of each stream, those behind its tapped
    blocks, and what parts offered, added up and told of themselves, as `Features` has it.
    """

    tokens: Mapping[str, Tensor]
    tapped: Mapping[str, Sequence[Tensor]]
    offers: Mapping[str, list[Tensor]]
    sums: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor]


class Streams(nn.Module):
    """Streams that run together, block by block as a plan says, with the parts mounted on them.

    Args:
        streams: by name.
        plan: which blocks run together.
        instances: the parts, in the order in which they are listed; those of other streams are left out.
        atomic_audio: see `Step`.
        memory: what the backward pass makes again: nothing (``fast``), what layers do (``balanced``), all of a step
            between the tokens that enter and those that leave (``low``).

    Attributes:
        steps: the entries of the plan, modules that are called one after the other.
        compiled, replayed: whether torch.compile makes graphs of them, and CUDA graphs of these, see `compile_steps`.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        plan: Sequence[PlanEntry],
        instances: Sequence[PartInstance],
        *,
        atomic_audio: bool = False,
        memory: str = "fast",
    ) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(streams)
        self.plan = tuple(plan)
        self.instances = tuple(part for part in instances if set(part.streams) <= set(streams))
        self.segments = next(iter(streams.values())).segments
        # Streams that train the same copies of a shared trunk also share the blocks in which these stand.
        made: dict[frozenset[Any], dict[nn.Module, nn.Module]] = {}
        first: dict[Tensor, Held] = {}  # of what several parts or streams train as one
        for name, stream in streams.items():
            offered, weights = stream.tower.trainable, stream.tower.weights()
            trained = {offered[one]: copy for one, copy in self._copies(name)}
            tensors = {weights[one]: first.setdefault(held.tensor, held) for one, held in self._tensors(name)}
            alike = frozenset([*trained.items(), *tensors.items()])
            stream.train_copies(trained, made.setdefault(alike, {}), tensors)
        self.memory = memory
        self.steps = nn.ModuleList(self._step(entry, atomic_audio) for entry in self.plan)
        self.replayed = self.compiled = False
        self._compiled_for: dict[bool, int] = {}

    def compile_steps(self, training: int, evaluation: int, *, cuda_graphs: bool = False) -> None:
        """Let torch.compile make one graph of each kind of step, in place: names of modules stay as they are.

        Sizes are constants of a graph, and only batches of the sizes given use graphs. Others run as they are: one of
        the last clips of a split is not worth what compiling takes.

        Args:
            training: clips of a batch in training mode.
            evaluation: the same in evaluation mode.
            cuda_graphs: on a GPU record the kernels of each step once, then launch them together.
        """
        # All steps share what is compiled, by the code that they have in common; torch gives up at 8 graphs of a code.
        # Here there may be one of each step, of the first without a gradient to its input, in either mode.
        enough = 4 * len(self.steps)
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, enough)
        for step in self.steps:
            step.compile(dynamic=False, mode="reduce-overhead" if cuda_graphs else None)
        self.compiled, self.replayed = True, cuda_graphs
        self._compiled_for = {True: training, False: evaluation}

    def __getitem__(self, name: str) -> Stream:
        return cast(Stream, self.streams[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.streams)

    def forward(self, images: Mapping[str, Tensor], bias: Mapping[str, Tensor] | None = None) -> Walked:
        """Walk from the outputs of the front ends to the tokens behind the last blocks; ``bias`` as `Step` takes it."""
        x = {name: self[name].acting.embed(image) for name, image in images.items()}
        embedded = dict(x)
        for part in self.instances:
            if not (part.overrides(Prompt, "after_embedding") or part.overrides(Fusion, "after_embedding")):
                continue
            view = StreamView(B=x[part.streams[0]].shape[0] // self.segments, T=self.segments)
            module = cast(Any, part.module)
            made = module.after_embedding(*(embedded[name] for name in part.streams), view)
            adds = made if isinstance(module, Fusion) else (made,)
            x |= {name: x[name] + add.to(x[name].dtype) for name, add in zip(part.streams, adds, strict=True)}
        x = {name: self[name].acting.enter(tokens) for name, tokens in x.items()}
        told: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in TELLING}
        tapped: dict[str, list[Tensor]] = {name: [] for name in x}
        carried: dict[tuple[str, str], Tensor] = {}
        clips = next(iter(x.values())).shape[0] // self.segments
        as_it_is = self._compiled_for.get(self.training, clips) != clips
        for entry, step in zip(self.plan, cast(Sequence[Step], self.steps), strict=True):
            for name, index in entry.running:
                x[name] = self[name].into_stage(index, x[name])
            run = step.forward if as_it_is else step
            x, carried, found = step.again(run, x, carried, bias) if self.memory == "low" else run(x, carried, bias)
            for kind, key, tensor in found:
                told[kind].setdefault(key, []).append(tensor)
            for name, index in entry.running:
                if index in self[name].layout.taps:
                    tapped[name].append(x[name])
        return Walked(
            x,
            tapped,
            offers=told["offer"],
            sums={key: _total(made) for key, made in told["sums"].items()},
            statistics={key: _total(made) / len(made) for key, made in told["statistics"].items()},
        )

    def _copies(self, stream: str) -> Iterator[tuple[str, nn.Module]]:
        """The modules that parts train of a stream, with the names under which its tower offers them."""
        return (found for own in self._trained(stream) for found in copies_in(own))

    def _tensors(self, stream: str) -> Iterator[tuple[str, Held]]:
        """The tensors that parts train of a stream, with the names that they have among its tower's weights."""
        return (found for own in self._trained(stream) for found in tensors_in(own))

    def _trained(self, stream: str) -> list[nn.ModuleDict]:
        parts = [part.module.backbone for part in self.instances if stream in part.module.backbone]
        return [cast(nn.ModuleDict, backbone[stream]) for backbone in parts]

    def _step(self, entry: PlanEntry, atomic_audio: bool) -> Step:
        running = dict(entry.running)
        blocks = {name: self[name].acting.block(index) for name, index in running.items()}
        found: list[tuple[PartInstance, Layer]] = []
        for part in self.instances:
            if not all(name in running for name in part.streams):
                continue
            key = str(running[part.streams[0]])
            if key in part.module.layers:
                layer = part.module.layers[key]
                assert isinstance(layer, Layer)
                found.append((part, layer))
        maps = next((layer for _, layer in found if isinstance(layer, AlignLayer)), None)
        mounted = [
            Mounted(
                name=part.name,
                part=part.module,
                layer=layer,
                streams=part.streams,
                as_own=part.as_own,
                maps=maps if part.as_own else None,
            )
            for part, layer in found
            if not isinstance(layer, AlignLayer)
        ]
        recompute = self.memory == "balanced"
        return Step(blocks, mounted, segments=self.segments, atomic_audio=atomic_audio, recompute=recompute)


def _total(numbers: Sequence[Tensor]) -> Tensor:
    """Their sum, in float32 at least; some may be of each clip and others one for all."""
    first, *rest = map(at_least_single, numbers)
    return sum(rest, start=first)


class TextEncoder(nn.Module):
    """The stream of sentences, which a head calls on as many as it likes; prompts on it are on the way.

    Their number K has nothing to do with the clips.
    """

    def __init__(self, stream: Stream, instances: Sequence[PartInstance], *, memory: str = "fast") -> None:
        super().__init__()
        plan = [PlanEntry(**{stream.name: index}) for index in range(stream.layout.depth)]
        self.walk = Streams({stream.name: stream}, plan, instances, memory=memory)
        self.name = stream.name
        # Ids to what they gave, with the version of the ids and whether autocast was on.
        self._kept: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @property
    def tower(self) -> TextTower:
        """The frozen tower."""
        return cast(TextTower, self.walk[self.name].tower)

    @property
    def layout(self) -> StreamLayout:
        """Its widths and depth; ``layout.shared`` is the width of the space that it shares with pictures or sound."""
        return self.tower.layout

    def forward(self, ids_KL: Tensor, *, keep: bool = False) -> TextFeatures:
        """Sentences to vectors.

        Args:
            ids_KL: int64, as `TextGeometry.tokenizer` makes them.
            keep: remember the result for this very tensor, as long as nothing on the way trains: for names of classes,
                which are the same in every step.
        """
        frozen = not self.walk.instances
        if not (keep and frozen) or ids_KL.is_meta:  # shapes alone are worth nothing, and know no autocast
            return self._encode(ids_KL, frozen)
        state = (ids_KL._version, torch.is_autocast_enabled(ids_KL.device.type))
        if self._kept.get(ids_KL, (None, None))[0] != state:
            self._kept[ids_KL] = (state, self._encode(ids_KL, frozen))
        return cast(TextFeatures, self._kept[ids_KL][1])

    def project(self, pooled_KD: Tensor) -> Tensor:
        """`Tower.project`: vectors in the space that is shared with pictures or sound."""
        return self.tower.project(pooled_KD)

    def _encode(self, ids_KL: Tensor, frozen: bool) -> TextFeatures:
        stream = self.walk[self.name]
        with as_stored(self.tower), torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            ids_KL = stream.front_end(ids_KL)
            hidden = self.tower.key_bias(ids_KL)
            walked = self.walk({self.name: ids_KL}, None if hidden is None else {self.name: hidden})
            raw = walked.tokens[self.name]
            acting = cast(TextTower, stream.acting)
            tokens = acting.norm(raw)
            return TextFeatures(
                pooled=acting.pool(tokens, ids_KL),
                tokens=tokens,
                raw_tokens=raw,
                offers=walked.offers,
                sums=walked.sums,
                statistics=walked.statistics,
            )

    def _apply(self, fn: Any, recurse: bool = True) -> TextEncoder:
        # Other types, another device: what is kept no longer fits.
        self._kept.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
