"""Specs and a configuration become an `AVModel`, or a refusal with its reason."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from avcore.backbones import Backbone, Tower, digest
from avcore.config import RunConfig, StreamConfig, resolve_config
from avcore.data.randomness import torch_generator
from avcore.errors import AVCoreError, did_you_mean
from avcore.injection import Fusion, FusionLayer, Layer, PairLayout, Part, PlanEntry, Prompt, PromptLayer, make_plan
from avcore.model import AVModel, PartInstance
from avcore.registry import Registry, load_registry
from avcore.specs import STREAMS, BlockLayout, ClipSettings, Need, PartSpec, StreamLayout
from avcore.tasks import Batch, Windows

__all__ = ["assemble", "create_model", "plan_of"]


def create_model(
    method: str | None = None,
    *,
    task: str,
    prompts: str | None = None,
    fusion: str | None = None,
    visual: str | None = None,
    audio: str | None = None,
    streams: str | None = None,
    recipe: str | None = None,
    set: Sequence[str] = (),
    device: str | torch.device = "cpu",
    meta: bool = False,
) -> AVModel:
    """Make a model for anybody's loop: ``out = model(batch); loss = model.loss(out, batch)``.

    Args:
        method: a published method; its prompts, fusions and recipe for the task.
        task: the name of a task.
        prompts, fusion: parts joined by ``+``, a method's name for all its prompts or fusions, or ``none``.
        visual, audio: backbone names; without ``audio`` both streams share the visual trunk.
        streams: ``visual``, ``audio`` or ``both``.
        recipe: the variant of the method's recipe.
        set: further settings, ``key=value``.
        device: where the model goes.
        meta: build shapes only, without weights, to count.

    Raises:
        AVCoreError: a name or a setting is wrong, or the combination cannot run; says why.
    """
    registry = load_registry()
    resolved = resolve_config(
        registry,
        method=method,
        task=task,
        prompts=prompts,
        fusion=fusion,
        visual=visual,
        audio=audio,
        streams=streams,
        recipe=recipe,
        sets=tuple(set),
        need_data=False,
    )
    return assemble(resolved.config, registry, device=device, meta=meta)


def assemble(
    config: RunConfig, registry: Registry, *, device: str | torch.device = "cpu", meta: bool = False
) -> AVModel:
    """Make the model that a configuration describes.

    It is first built on the meta device, where one backward pass shows whether every trainable parameter is reached.

    Args:
        config: a resolved configuration.
        registry: where its names are looked up.
        device: where the model goes.
        meta: return the model on the meta device, without weights.

    Raises:
        AVCoreError: parts need what the streams lack, or trainable parameters would get no gradient.
    """
    with torch.device("meta"):
        shapes = _build(config, registry)
        _check_gradients(shapes)
    if meta:
        return shapes
    model = _build(config, registry)
    model.backbone_digest = digest(model.towers)
    return model.to(device)


def _build(config: RunConfig, registry: Registry) -> AVModel:
    clip = config.data.settings
    assert isinstance(clip, ClipSettings)
    chosen = {stream: getattr(config, stream) for stream in _running(config.streams)}
    with _seeded(config, "backbones"):
        towers, notices = _towers(chosen, config.visual, registry, clip.segments)
    plan = make_plan(*(towers[stream].layout if stream in towers else None for stream in STREAMS))
    layouts = {}
    for stream, tower in towers.items():
        paired = frozenset(index for entry in plan if entry.paired and (index := getattr(entry, stream)) is not None)
        trunk = stream if chosen[stream].backbone is not None else "visual"
        layouts[stream] = tower.layout = replace(tower.layout, name=stream, trunk=trunk, paired=paired)
    task = registry.tasks[config.task].load()(config.task_options)
    instances = _instances(config, registry, layouts, plan)
    _copy_backbone_parts(instances, towers)
    with _seeded(config, "head"):
        head = registry.heads[config.head.name].load()(
            config.head.settings, layouts.get("visual"), layouts.get("audio"), task
        )
    return AVModel(
        config=config,
        task=task,
        head=head,
        towers=towers,
        instances=instances,
        plan=plan,
        segments=clip.segments,
        clip_seconds=clip.clip_seconds,
        windows=Windows(length=clip.window_seconds, margin=clip.window_margin),
        atomic_audio=config.plan.atomic_audio,
        notices=notices,
    )


@contextmanager
def _seeded(config: RunConfig, purpose: str) -> Iterator[None]:
    """Draw the initial values of one thing from its own seed, so that they do not depend on what else there is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(config.seed, f"initialise {purpose}").initial_seed())
        yield


# ---------------------------------------------------------------------------------------------------------- streams


def plan_of(
    visual: StreamConfig, audio: StreamConfig, registry: Registry, *, streams: str = "both", segments: int = 1
) -> tuple[dict[str, StreamLayout], tuple[PlanEntry, ...]]:
    """The layouts of the streams and which of their blocks run together, without weights and without parts.

    Args:
        visual, audio: the chosen backbones; an ``audio`` without one shares the visual trunk.
        registry: where their names are looked up.
        streams: ``visual``, ``audio`` or ``both``.
        segments: T.

    Raises:
        AVCoreError: a name is unknown, or a setting does not fit its backbone.
    """
    chosen = {stream: {"visual": visual, "audio": audio}[stream] for stream in _running(streams)}
    with torch.device("meta"):
        towers, _ = _towers(chosen, visual, registry, segments)
    layouts = {stream: tower.layout for stream, tower in towers.items()}
    return layouts, make_plan(layouts.get("visual"), layouts.get("audio"))


def _running(streams: str) -> tuple[str, ...]:
    return STREAMS if streams == "both" else (streams,)


def _towers(
    chosen: Mapping[str, StreamConfig], shared: StreamConfig, registry: Registry, segments: int
) -> tuple[dict[str, Tower], list[str]]:
    """The towers of the chosen streams; one without a backbone of its own uses that of ``shared``."""
    backbones: dict[str, Backbone] = {}
    towers: dict[str, Tower] = {}
    for stream, own in chosen.items():
        holder = own if own.backbone is not None else shared
        if holder.backbone is None:
            raise AVCoreError(
                "No visual backbone is chosen: use --visual NAME ('avcore plugins list' names the families installed, "
                "'avcore plugins show FAMILY' their members)."
            )
        key = stream if own.backbone is not None else "visual"
        spec, preset = registry.backbones.find(holder.backbone)
        if stream not in spec.streams:
            raise AVCoreError(
                f"'{holder.backbone}' serves the {' and '.join(spec.streams)} stream only: choose another backbone for "
                f"the {stream} stream with --{stream}."
            )
        if key not in backbones:
            backbones[key] = spec.load()(holder.settings, name=holder.backbone, preset=preset)
        towers[stream] = backbones[key].tower(stream, own.settings, segments)
    return towers, [notice for backbone in backbones.values() for notice in backbone.notices]


# ------------------------------------------------------------------------------------------------------------ parts


def _instances(
    config: RunConfig, registry: Registry, layouts: Mapping[str, StreamLayout], plan: Sequence[PlanEntry]
) -> list[PartInstance]:
    made = []
    aligned = any(registry.fusions[name].aligns for name in config.fusion)
    for name in config.prompts:
        spec = registry.prompts[name]
        settings = config.parts[name]
        _check_needs(spec, settings, layouts, aligned=aligned)
        wanted = config.part_streams.get(name, "both")
        for stream, layout in layouts.items():
            if wanted not in ("both", stream):
                continue
            with _seeded(config, f"{name}.{stream}"):
                prompt = _prompt(spec, settings, layout)
                for block in layout.blocks:
                    _mount(prompt, str(block.index), prompt.layer(block), PromptLayer, spec)
            made.append(PartInstance(name, (stream,), prompt))
    for name in config.fusion:
        fusion_spec = registry.fusions[name]
        settings = config.parts[name]
        _check_needs(fusion_spec, settings, layouts, aligned=aligned)
        with _seeded(config, name):
            fusion = _fusion(fusion_spec, settings, layouts["visual"], layouts["audio"])
            for pair in _pairs(layouts["visual"], layouts["audio"], plan):
                _mount(fusion, str(pair.visual.index), fusion.layer(pair), FusionLayer, fusion_spec)
        made.append(PartInstance(name, STREAMS, fusion))
    _check_finishes(config, registry)
    return made


def _copy_backbone_parts(instances: Sequence[PartInstance], towers: Mapping[str, Tower]) -> None:
    """Give parts the trainable copies that they ask for: one of each module, whoever asks for it."""
    copies: dict[int, nn.Module] = {}
    for part in instances:
        for stream, names in part.module.backbone_parts().items():
            if stream not in STREAMS:
                raise AVCoreError(
                    f"Part '{part.name}' wants to train parts of the stream '{stream}'; streams: {', '.join(STREAMS)}."
                )
            if stream not in part.streams:
                continue
            offered = towers[stream].trainable
            own = nn.ModuleDict()
            for name in names:
                if name not in offered:
                    near = did_you_mean(name, offered)
                    raise AVCoreError(
                        f"Part '{part.name}' wants to train '{name}' of the {stream} backbone.{near} "
                        f"This backbone offers: {', '.join(sorted(offered)) or 'nothing'}."
                    )
                frozen = offered[name]
                if id(frozen) not in copies:
                    copies[id(frozen)] = copy.deepcopy(frozen).float().requires_grad_(True).train()
                own[name] = copies[id(frozen)]
            part.module.backbone[stream] = own


def _pairs(visual: StreamLayout, audio: StreamLayout, plan: Sequence[PlanEntry]) -> list[PairLayout]:
    together = [(entry.visual, entry.audio) for entry in plan if entry.visual is not None and entry.audio is not None]
    return [
        PairLayout(visual=visual.blocks[v], audio=audio.blocks[a], index=index, pairs=len(together))
        for index, (v, a) in enumerate(together)
    ]


def _mount(part: Part, key: str, layer: nn.Module | None, kind: type[Layer], spec: PartSpec) -> None:
    if layer is None:
        return
    if not isinstance(layer, kind):
        raise AVCoreError(f"Part '{spec.name}' makes a {type(layer).__name__} where a {kind.__name__} belongs.")
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
    raise AVCoreError(f"Prompt '{spec.name}': '{spec.build}' is neither a Prompt nor a PromptLayer.")


def _fusion(spec: PartSpec, settings: Any, visual: StreamLayout, audio: StreamLayout) -> Fusion:
    build = spec.load()
    if isinstance(build, type) and issubclass(build, FusionLayer):
        return _UniformFusion(build, settings, visual, audio)
    if isinstance(build, type) and issubclass(build, Fusion):
        return build(settings, visual, audio)
    raise AVCoreError(f"Fusion '{spec.name}': '{spec.build}' is neither a Fusion nor a FusionLayer.")


# ----------------------------------------------------------------------------------------------------------- checks


def _check_needs(spec: PartSpec, settings: Any, layouts: Mapping[str, StreamLayout], *, aligned: bool) -> None:
    for need in sorted(spec.requires(settings)):
        if not _meets(need, layouts, aligned):
            found = ", ".join(f"{stream}: {_describe(layout)}" for stream, layout in layouts.items())
            raise AVCoreError(
                f"Part '{spec.name}' needs {need.value}, but this run has {found}: choose other backbones or streams, "
                f"or leave the part out (--prompts none, --fusion none)."
            )


def _meets(need: Need, layouts: Mapping[str, StreamLayout], aligned: bool) -> bool:
    streams = list(layouts.values())
    match need:
        case Need.BOTH_STREAMS:
            return len(streams) == 2
        case Need.EQUAL_WIDTHS:
            return len({tuple(stage.width for stage in stream.stages) for stream in streams}) == 1
        case Need.COMPARABLE_WIDTHS:
            return aligned or _meets(Need.EQUAL_WIDTHS, layouts, aligned)
        case Need.EQUAL_GRIDS:
            return len({tuple(stage.grid for stage in stream.stages) for stream in streams}) == 1
        case Need.CLASS_TOKEN:
            return all(stage.prefix > 0 for stream in streams for stage in stream.stages)


def _describe(layout: StreamLayout) -> str:
    stages = ", ".join(f"{stage.depth} blocks of width {stage.width} on {stage.grid}" for stage in layout.stages)
    return f"{stages}{'' if layout.stages[0].prefix else ' without a class token'}"


def _check_finishes(config: RunConfig, registry: Registry) -> None:
    taken: dict[str, str] = {}
    for spec in [
        *(registry.prompts[name] for name in config.prompts),
        *(registry.fusions[name] for name in config.fusion),
    ]:
        for field in sorted(spec.finishes):
            if field in taken:
                raise AVCoreError(f"Parts '{taken[field]}' and '{spec.name}' both replace '{field}' of the features.")
            taken[field] = spec.name


def _check_gradients(model: AVModel) -> None:
    """One backward pass on the meta device: every parameter of every part must be reached."""
    parts = dict(model.parameter_groups()["parts"])
    if not parts:
        return
    features = model.eval().features(_tiny_batch(model))
    reached = [
        tensor
        for stream in (features.visual, features.audio)
        if stream is not None
        for tensor in (stream.pooled, stream.tokens, *stream.maps)
    ]
    reached += [tensor for offered in features.offers.values() for tensor in offered]
    for part in model.instances:
        if type(part.module).losses is not Part.losses:
            reached += list(part.module.losses(features).values())
    sums = [tensor.float().sum() for tensor in reached if tensor.requires_grad]
    if sums:
        torch.stack(sums).sum().backward()
    missed = [name for name, parameter in parts.items() if parameter.grad is None]
    if missed:
        finishing = [part.name for part in model.instances if type(part.module).finish is not Part.finish]
        blame = f" The features pass through 'finish' of {', '.join(finishing)}." if finishing else ""
        raise AVCoreError(
            f"{len(missed)} trainable parameters would get no gradient: {', '.join(missed[:5])}"
            f"{', ...' if len(missed) > 5 else ''}.{blame} Leave that part out, or list what it would never use in "
            f"'unused_in_reference'."
        )
    model.zero_grad(set_to_none=True)


def _tiny_batch(model: AVModel) -> Batch:
    frames = waveform = None
    if model.image is not None:
        side = model.image.size
        frames = torch.zeros(1, model.segments, 3, side, side, dtype=torch.uint8)
    if model.sound is not None:
        waveform = torch.zeros(1, round(model.clip_seconds * model.sound.rate), dtype=torch.int16)
    return Batch(frames=frames, waveform=waveform, targets={}, names=["shapes"], valid=torch.ones(1, dtype=torch.bool))
