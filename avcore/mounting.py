"""Specs of parts and the layouts of streams become parts with their layers, or a refusal with its reason."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from avcore.backbones import Tower
from avcore.backbones.copies import place_copy, place_tensor
from avcore.data.randomness import torch_generator
from avcore.discovery.signatures import blamed, check_build, check_overrides
from avcore.errors import AssemblyError, did_you_mean
from avcore.injection import Fusion, FusionLayer, PairLayout, Part, PlanEntry, Prompt, PromptLayer, sites_of
from avcore.injection.align import ALIGN, Align
from avcore.sites import check_sites
from avcore.specs import STREAMS, TEXTS, BlockLayout, FusionSpec, Need, PartSpec, PromptSpec, StreamLayout
from avcore.streams import PartInstance

__all__ = [
    "ListedPart",
    "StreamSet",
    "check_together",
    "copy_backbone_parts",
    "idle_notices",
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
    """A part that a run lists: its name there, its spec, its settings, the streams that it is wanted in.

    ``plugin`` is the distribution that offers it, with its version.
    """

    name: str
    spec: PartSpec
    settings: Any
    streams: str = "both"
    plugin: str = ""


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
        encoders: the further streams that the head calls; a prompt goes there by ``parts.<name>.streams=text`` or
            ``text_audio``.
        align_bias: the maps between streams of different widths have a bias.

    Raises:
        AVCoreError: parts need what the streams lack, or do not go together.
    """
    check_together(listed)
    further = {name: StreamSet({name: tower}, ()) for name, tower in (encoders or {}).items()}
    none = StreamSet({}, ())
    instances = [
        instance
        for part in listed
        for instance in mount_part(part, further.get(part.streams, none) if part.streams in TEXTS else streams, seed)
    ]
    instances += _maps(instances, streams, seed, align_bias)
    copy_backbone_parts(instances, {**streams.towers, **(encoders or {})})
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
    if part.streams in TEXTS and part.streams not in streams.towers:
        raise AssemblyError(
            f"parts.{part.name}.streams={part.streams}: the head of this run calls no encoder of sentences there. "
            f"Choose a head that does (--set head.name=NAME --{part.streams.replace('_', '-')} NAME), or another "
            "stream."
        )
    _check_needs(part, streams.layouts)
    made = []
    if isinstance(part.spec, PromptSpec):
        for stream, layout in streams.layouts.items():
            if part.streams in ("both", stream):
                with seeded(seed, f"{part.name}.{stream}"):
                    prompt = _made(part, Prompt, _UniformPrompt, {"stream": layout})
                    _mount(prompt, part, {block.index: block for block in layout.blocks})
                made.append(PartInstance(part.name, (stream,), prompt, plugin=part.plugin))
    else:
        layouts = streams.layouts
        with seeded(seed, part.name):
            fusion = _made(part, Fusion, _UniformFusion, {stream: layouts[stream] for stream in STREAMS})
            _mount(fusion, part, {pair.visual.index: pair for pair in streams.pairs})
        as_own = part.spec.as_own if isinstance(part.spec, FusionSpec) else ()
        made.append(PartInstance(part.name, STREAMS, fusion, as_own, part.plugin))
    for instance in made:
        check_sites(instance)
    return made


def idle_notices(instances: Sequence[PartInstance]) -> list[str]:
    """What to tell of parts that have nothing to train where they were put, no layer, and no part in the features."""
    return [
        f"Part '{one.name}' does nothing on {' and '.join(one.streams)}: it takes none of the blocks and trains "
        f"nothing."
        for one in instances
        if not one.module.layers
        and not any(True for _ in one.module.parameters())
        and not sites_of(type(one.module), Part) & {"finish", "losses"}
    ]


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
        align.layers.update({str(pair.visual.index): made for pair in streams.pairs if (made := align.layer(pair))})
    return [PartInstance(ALIGN, STREAMS, align)] if align.layers else []


# ------------------------------------------------------------------------------------------------------- what is made


def _mount(module: Any, part: ListedPart, places: Mapping[int, Any]) -> None:
    """Give a part the layers that it makes for its places, blocks or pairs of blocks."""
    kind = FusionLayer if isinstance(module, Fusion) else PromptLayer
    for index, place in places.items():
        with blamed(part.plugin, "layer", f"part '{part.name}'"):
            layer = module.layer(place)
        if layer is None:
            continue
        if not isinstance(layer, kind):
            raise AssemblyError(
                f"Part '{part.spec.name}' makes a {type(layer).__name__} where a {kind.__name__} belongs."
            )
        module.layers[str(index)] = layer


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


def _made(part: ListedPart, base: type[Part], uniform: Callable[..., Any], layouts: Mapping[str, StreamLayout]) -> Any:
    """The prompt or fusion of a spec, which names its class or that of its layers."""
    build, of, settings = part.spec.load(), f"part '{part.name}'", part.settings
    layer, place = (PromptLayer, "block") if base is Prompt else (FusionLayer, "pair")
    if isinstance(build, type) and issubclass(build, layer):
        check_build(build, ("config", place), plugin=part.plugin, of=of)
        check_overrides(build, layer, plugin=part.plugin, of=of)
        return uniform(build, settings, *layouts.values())
    if isinstance(build, type) and issubclass(build, base):
        check_build(build, ("config", *layouts), plugin=part.plugin, of=of)
        check_overrides(build, base, plugin=part.plugin, of=of)
        with blamed(part.plugin, "__init__", of):
            return build(settings, *layouts.values())  # type: ignore[call-arg]
    raise AssemblyError(
        f"{base.__name__} '{part.spec.name}': '{part.spec.build}' is neither a {base.__name__} nor a {layer.__name__}."
    )


def copy_backbone_parts(instances: Sequence[PartInstance], towers: Mapping[str, Tower]) -> None:
    """Give parts the trainable copies that they ask for: one of each module or tensor, whoever asks for it."""
    copies: dict[int, nn.Module] = {}
    tensors: dict[int, nn.Parameter] = {}
    for part in instances:
        for stream, names in _wanted(part, "backbone_parts"):
            offered = towers[stream].trainable
            for name in (match for asked in names for match in _offered(asked, offered, part.name, stream)):
                frozen = offered[name]
                if id(frozen) not in copies:
                    copies[id(frozen)] = copy.deepcopy(frozen).float().requires_grad_(True).train()
                place_copy(_own(part, stream), name, copies[id(frozen)])
        for stream, names in _wanted(part, "backbone_tensors"):
            known = {name: one for name, one in towers[stream].weights().items() if isinstance(one, nn.Parameter)}
            for name in (match for asked in names for match in _offered(asked, known, part.name, stream)):
                if (key := id(known[name])) not in tensors:
                    tensors[key] = nn.Parameter(known[name].detach().clone().float())
                place_tensor(_own(part, stream), name, tensors[key])


def _wanted(part: PartInstance, hook: str) -> list[tuple[str, tuple[str, ...]]]:
    """What a part asks to train of the streams that it acts on."""
    with blamed(part.plugin, hook, f"part '{part.name}'"):
        wanted: Mapping[str, tuple[str, ...]] = getattr(part.module, hook)()
    for stream in wanted:
        if stream not in (*STREAMS, *TEXTS):
            raise AssemblyError(
                f"Part '{part.name}' wants to train parts of the stream '{stream}'; streams: "
                f"{', '.join((*STREAMS, *TEXTS))}."
            )
    return [(stream, names) for stream, names in wanted.items() if stream in part.streams]


def _own(part: PartInstance, stream: str) -> nn.ModuleDict:
    backbone = part.module.backbone
    if stream not in backbone:
        backbone[stream] = nn.ModuleDict()
    return cast(nn.ModuleDict, backbone[stream])


def _offered(asked: str, offered: Collection[str], part: str, stream: str) -> list[str]:
    """The names of a tower's modules or tensors that a name or a pattern stands for."""
    found = [name for name in offered if fnmatchcase(name, asked)]
    if not found:
        known = sorted(offered, key=lambda name: (name.count("."), name))
        shown = ", ".join([*known[:4], f"... ({len(known)})"] if len(known) > 5 else known)
        raise AssemblyError(
            f"Part '{part}' wants to train '{asked}' of the {stream} backbone.{did_you_mean(asked, offered)} "
            f"This backbone offers: {shown or 'nothing'}."
        )
    return found


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
