"""Specs of parts and the layouts of streams become parts with their layers, or a refusal with its reason."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from avcore.backbones import Tower
from avcore.data.randomness import torch_generator
from avcore.errors import AssemblyError, did_you_mean
from avcore.injection import Fusion, FusionLayer, Layer, PairLayout, Part, PlanEntry, Prompt, PromptLayer
from avcore.injection.align import ALIGN, Align
from avcore.specs import STREAMS, TEXT, BlockLayout, FusionSpec, Need, PartSpec, PromptSpec, StreamLayout
from avcore.streams import PartInstance

__all__ = [
    "ListedPart",
    "StreamSet",
    "check_together",
    "copy_backbone_parts",
    "mount_part",
    "mount_parts",
    "seeded",
]


@dataclass(frozen=True)
class StreamSet:
    """The streams that run, and which of their blocks run together."""

    towers: Mapping[str, Tower]
    plan: tuple[PlanEntry, ...]

    @property
    def layouts(self) -> dict[str, StreamLayout]:
        """What parts may know of each stream."""
        return {stream: tower.layout for stream, tower in self.towers.items()}

    @property
    def pairs(self) -> list[PairLayout]:
        """The blocks that run together."""
        visual, audio = self.towers["visual"].layout, self.towers["audio"].layout
        together = [
            (entry.visual, entry.audio) for entry in self.plan if entry.visual is not None and entry.audio is not None
        ]
        return [
            PairLayout(visual=visual.blocks[v], audio=audio.blocks[a], index=index, pairs=len(together))
            for index, (v, a) in enumerate(together)
        ]


@dataclass(frozen=True)
class ListedPart:
    """A part that a run lists: its name there, its spec, its settings, the streams that it is wanted in."""

    name: str
    spec: PartSpec
    settings: Any
    streams: str = "both"


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Draw the initial values of one thing from its own seed, so that they do not depend on what else there is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, f"initialise {purpose}").initial_seed())
        yield


def mount_parts(
    listed: Sequence[ListedPart],
    streams: StreamSet,
    seed: int,
    *,
    encoders: Mapping[str, Tower] | None = None,
    align_bias: bool = True,
) -> list[PartInstance]:
    """The parts of a run with their layers, in the order in which they are listed, and the maps that some read through.

    Args:
        listed: what the run lists.
        streams: pictures and sound, and which of their blocks run together.
        seed: of the run.
        encoders: the further streams that the head calls; a prompt goes there by ``parts.<name>.streams=text``.
        align_bias: the maps between streams of different widths have a bias.

    Raises:
        AVCoreError: parts need what the streams lack, or do not go together.
    """
    check_together(listed)
    further = StreamSet(encoders or {}, ())
    instances = [
        instance for part in listed for instance in mount_part(part, further if part.streams == TEXT else streams, seed)
    ]
    instances += _maps(instances, streams, seed, align_bias)
    copy_backbone_parts(instances, {**streams.towers, **further.towers})
    return instances


def mount_part(part: ListedPart, streams: StreamSet, seed: int) -> list[PartInstance]:
    """One part by itself: an instance for each stream it acts on, or one for both.

    Args:
        part: what to make.
        streams: where.
        seed: of the run.

    Raises:
        AVCoreError: it needs what the streams lack.
    """
    if part.streams == TEXT and TEXT not in streams.towers:
        raise AssemblyError(
            f"parts.{part.name}.streams=text: the head of this run calls no encoder of sentences. Choose a head that "
            "does (--set head.name=NAME --text NAME), or another stream."
        )
    _check_needs(part, streams.layouts)
    if isinstance(part.spec, PromptSpec):
        made = []
        for stream, layout in streams.layouts.items():
            if part.streams not in ("both", stream):
                continue
            with seeded(seed, f"{part.name}.{stream}"):
                prompt = _prompt(part.spec, part.settings, layout)
                for block in layout.blocks:
                    _mount(prompt, str(block.index), prompt.layer(block), PromptLayer, part.spec.name)
            made.append(PartInstance(part.name, (stream,), prompt))
        return made
    layouts = streams.layouts
    with seeded(seed, part.name):
        fusion = _fusion(part.spec, part.settings, layouts["visual"], layouts["audio"])
        for pair in streams.pairs:
            _mount(fusion, str(pair.visual.index), fusion.layer(pair), FusionLayer, part.spec.name)
    as_own = part.spec.as_own if isinstance(part.spec, FusionSpec) else ()
    return [PartInstance(part.name, STREAMS, fusion, as_own)]


def _maps(instances: Sequence[PartInstance], streams: StreamSet, seed: int, bias: bool) -> list[PartInstance]:
    """The maps between the streams, where a part reads through them and the blocks differ."""
    read: dict[int, set[str]] = {}
    for part in instances:
        for index in part.module.layers if part.as_own else ():
            read.setdefault(int(index), set()).update(part.as_own)
    if not read:
        return []
    with seeded(seed, ALIGN):
        align = Align(streams.layouts["visual"], streams.layouts["audio"], read=read, bias=bias)
        for pair in streams.pairs:
            _mount(align, str(pair.visual.index), align.layer(pair), FusionLayer, ALIGN)
    return [PartInstance(ALIGN, STREAMS, align)] if align.layers else []


# ------------------------------------------------------------------------------------------------------- what is made


def _mount(part: Part, key: str, layer: nn.Module | None, kind: type[Layer], name: str) -> None:
    if layer is None:
        return
    if not isinstance(layer, kind):
        raise AssemblyError(f"Part '{name}' makes a {type(layer).__name__} where a {kind.__name__} belongs.")
    part.layers[key] = layer


class _UniformPrompt(Prompt):
    """The prompt of a spec that names a layer class: that layer in every block."""

    def __init__(self, layer_class: type[PromptLayer], config: Any, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        self._make: Callable[[BlockLayout], PromptLayer] = partial(layer_class, config)

    def layer(self, block: BlockLayout) -> PromptLayer:
        return self._make(block)


class _UniformFusion(Fusion):
    """The fusion of a spec that names a layer class: that layer at every pair."""

    def __init__(self, layer_class: type[FusionLayer], config: Any, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self._make: Callable[[PairLayout], FusionLayer] = partial(layer_class, config)

    def layer(self, pair: PairLayout) -> FusionLayer:
        return self._make(pair)


def _prompt(spec: PartSpec, settings: Any, layout: StreamLayout) -> Prompt:
    build = spec.load()
    if isinstance(build, type) and issubclass(build, PromptLayer):
        return _UniformPrompt(build, settings, layout)
    if isinstance(build, type) and issubclass(build, Prompt):
        return build(settings, layout)
    raise AssemblyError(f"Prompt '{spec.name}': '{spec.build}' is neither a Prompt nor a PromptLayer.")


def _fusion(spec: PartSpec, settings: Any, visual: StreamLayout, audio: StreamLayout) -> Fusion:
    build = spec.load()
    if isinstance(build, type) and issubclass(build, FusionLayer):
        return _UniformFusion(build, settings, visual, audio)
    if isinstance(build, type) and issubclass(build, Fusion):
        return build(settings, visual, audio)
    raise AssemblyError(f"Fusion '{spec.name}': '{spec.build}' is neither a Fusion nor a FusionLayer.")


def copy_backbone_parts(instances: Sequence[PartInstance], towers: Mapping[str, Tower]) -> None:
    """Give parts the trainable copies that they ask for: one of each module, whoever asks for it."""
    copies: dict[int, nn.Module] = {}
    for part in instances:
        for stream, names in part.module.backbone_parts().items():
            if stream not in (*STREAMS, TEXT):
                raise AssemblyError(
                    f"Part '{part.name}' wants to train parts of the stream '{stream}'; streams: {', '.join(STREAMS)}."
                )
            if stream not in part.streams:
                continue
            offered = towers[stream].trainable
            own = nn.ModuleDict()
            for name in names:
                if name not in offered:
                    near = did_you_mean(name, offered)
                    raise AssemblyError(
                        f"Part '{part.name}' wants to train '{name}' of the {stream} backbone.{near} "
                        f"This backbone offers: {', '.join(sorted(offered)) or 'nothing'}."
                    )
                frozen = offered[name]
                if id(frozen) not in copies:
                    copies[id(frozen)] = copy.deepcopy(frozen).float().requires_grad_(True).train()
                own[name] = copies[id(frozen)]
            part.module.backbone[stream] = own


# ----------------------------------------------------------------------------------------------------------- refusals


def check_together(listed: Sequence[ListedPart]) -> None:
    """Refuse parts that cannot be in one run, on whatever streams.

    Raises:
        AVCoreError: two replace one field of the features.
    """
    taken: dict[str, str] = {}
    for part in listed:
        for field in sorted(part.spec.finishes):
            if field in taken:
                raise AssemblyError(f"Parts '{taken[field]}' and '{part.name}' both replace '{field}' of the features.")
            taken[field] = part.name


def _check_needs(part: ListedPart, layouts: Mapping[str, StreamLayout]) -> None:
    for need in sorted(part.spec.requires(part.settings)):
        if not _meets(need, layouts):
            found = ", ".join(f"{stream}: {_describe(layout)}" for stream, layout in layouts.items())
            raise AssemblyError(
                f"Part '{part.spec.name}' needs {need.value}, but this run has {found}: choose other backbones or "
                f"streams, or leave the part out (--prompts none, --fusion none)."
            )


def _meets(need: Need, layouts: Mapping[str, StreamLayout]) -> bool:
    stages = [layout.stages for layout in layouts.values()]
    match need:
        case Need.BOTH_STREAMS:
            return len(stages) == 2
        case Need.EQUAL_WIDTHS:
            return len({tuple(stage.width for stage in own) for own in stages}) == 1
        case Need.EQUAL_GRIDS:
            return len({tuple(stage.grid for stage in own) for own in stages}) == 1
        case Need.CLASS_TOKEN:
            return all(stage.prefix > 0 for own in stages for stage in own)


def _describe(layout: StreamLayout) -> str:
    stages = ", ".join(
        f"{stage.depth} blocks of width {stage.width} on {stage.grid}"
        f"{'' if stage.window is None else f' in windows of {stage.window}'}"
        for stage in layout.stages
    )
    return f"{stages}{'' if layout.stages[0].prefix else ' without a class token'}"
