"""Specs and a configuration become an `AVModel`, or a refusal with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from avcore.backbones import Backbone, Block, TextTower, Tower, digest
from avcore.config import Chosen, RunConfig, StreamConfig, resolve_config
from avcore.data.augment import Augmentation
from avcore.data.frontends import ImageFrontEnd
from avcore.data.opening import make_task
from avcore.data.randomness import torch_generator
from avcore.discovery.signatures import blamed, check_build, check_overrides
from avcore.errors import AssemblyError
from avcore.garbage import look_as_ever
from avcore.gradients import follow_losses, leave_untrained
from avcore.injection import make_plan
from avcore.model import AVModel
from avcore.mounting import ListedPart, StreamSet, idle_notices, mount_parts, seeded
from avcore.registry import Registry, load_registry
from avcore.shapes import WithoutValues
from avcore.specs import STREAMS, TEXT, TEXTS, ClipSettings, ImageGeometry, StreamLayout, TextGeometry, Windows, resolve
from avcore.streams import Stream
from avcore.tasks import Head, Task

__all__ = ["assemble", "create_model", "model_of", "streams_of"]


def create_model(
    method: str | None = None,
    *,
    task: str,
    prompts: str | None = None,
    fusions: str | None = None,
    visual: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    text_audio: str | None = None,
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
        prompts, fusions: parts joined by ``+``, a method's name for all its prompts or fusions, or ``none``.
        visual, audio: backbone names; without ``audio`` both streams share the visual trunk.
        text: the encoder of sentences, for heads that read some.
        text_audio: another one for what such a head compares with sound.
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
        fusions=fusions,
        visual=visual,
        audio=audio,
        text=text,
        text_audio=text_audio,
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

    It is first built on the meta device, where one forward and the losses of every epoch show which parameters would
    get a gradient: `avcore.gradients`.

    Args:
        config: a resolved configuration.
        registry: where its names are looked up.
        device: where the model goes.
        meta: return the model on the meta device, without weights.

    Raises:
        AVCoreError: parts need what the streams lack, or trainable parameters would get no gradient.
    """
    registry = registry.recorded(config.full_names)
    with WithoutValues():
        shapes = _build(config, registry)
    with torch.device("meta"):
        followed = follow_losses(shapes)
    Augmentation(shapes)  # refuses what does not go with this model
    model = leave_untrained(shapes if meta else _build(config, registry), followed)
    look_as_ever()
    if meta:
        return model
    model.backbone_digest = digest(model.towers)
    return model.to(device)


def _build(config: RunConfig, registry: Registry) -> AVModel:
    clip = config.data.settings
    assert isinstance(clip, ClipSettings)
    chosen = {stream: getattr(config, stream) for stream in _running(config.streams)}
    windows = Windows(length=clip.window_seconds, margin=clip.window_margin)
    with seeded(config.seed, "backbones"):
        streams, notices = _streams(
            chosen, config.visual, registry, clip.segments, windows, pairing=config.plan.pairing
        )
        further, more = _encoders(config, registry)
    if config.frozen == "random":
        _shuffle(nn.ModuleDict({**streams.towers, **further}), config.seed)
    layouts = streams.layouts | {name: tower.layout for name, tower in further.items()}
    task = make_task(config, registry)
    instances = mount_parts(
        _listed(config, registry), streams, config.seed, encoders=further, align_bias=config.plan.align_bias
    )
    _check_serves(config, registry)
    with seeded(config.seed, "head"):
        head = _head(config, registry, layouts, task)
    return AVModel(
        config=config,
        task=task,
        head=head,
        streams={
            name: Stream(name, tower, _front_end(tower, windows, clip.segments), tower.layout.segments)
            for name, tower in {**streams.towers, **further}.items()
        },
        instances=instances,
        plan=streams.plan,
        segments=clip.segments,
        clip_seconds=clip.clip_seconds,
        windows=windows,
        atomic_audio=config.plan.atomic_audio,
        notices=[*notices, *more, *idle_notices(instances)],
    )


def _shuffle(towers: nn.Module, seed: int) -> None:
    """Bring the values of each frozen tensor into random order: nothing that was learnt is left but how they spread.

    Works for every backbone, also for what a tower computed from its weights, and keeps what must be positive so.
    """
    for name, tensor in (*towers.named_parameters(), *towers.named_buffers()):
        if tensor.is_floating_point() and not tensor.is_meta:
            order = torch.randperm(tensor.numel(), generator=torch_generator(seed, f"shuffle {name}"))
            tensor.data.copy_(tensor.data.flatten()[order].view_as(tensor))


def _head(config: RunConfig, registry: Registry, layouts: Mapping[str, StreamLayout], task: Task) -> Head:
    plugin, of = registry.plugin(registry.heads, config.head.name), f"head '{config.head.name}'"
    build = registry.heads[config.head.name].load()
    check_build(build, ("config", "layouts", "task"), plugin=plugin, of=of)
    with blamed(plugin, "__init__", of):
        made: Head = build(config.head.settings, layouts, task)
    check_overrides(type(made), Head, plugin=plugin, of=of)
    return made


def _front_end(tower: Tower, windows: Windows, segments: int) -> nn.Module:
    geometry = tower.geometry
    if isinstance(geometry, ImageGeometry):
        return ImageFrontEnd(geometry)
    if isinstance(geometry, TextGeometry):  # ids are embedded as they are
        return nn.Identity()
    made: nn.Module = resolve(geometry.front_end)(geometry, windows, segments)
    return made


def _check_serves(config: RunConfig, registry: Registry) -> None:
    head, task = registry.heads[config.head.name], registry.tasks[config.task]
    if not head.takes(task):
        others = ", ".join(sorted(other.name for other in registry.heads if other.takes(task)))
        raise AssemblyError(
            f"Head '{head.name}' serves {', '.join(head.serves)}; task '{task.name}' predicts "
            f"{task.kind or 'what its author has not named'}. Heads for it: {others or 'none'} (--set head.name=NAME)."
        )


def _listed(config: RunConfig, registry: Registry) -> list[ListedPart]:
    return [
        ListedPart(
            name, table[name], config.parts[name], config.part_streams.get(name, "both"), registry.plugin(table, name)
        )
        for table, names in ((registry.prompts, config.prompts), (registry.fusions, config.fusions))
        for name in names
    ]


# ---------------------------------------------------------------------------------------------------------- streams


def streams_of(
    visual: StreamConfig,
    audio: StreamConfig,
    registry: Registry,
    *,
    streams: str = "both",
    segments: int = 1,
    windows: Windows | None = None,
    pairing: str | Sequence[tuple[int, int]] = "even",
) -> StreamSet:
    """The streams and which of their blocks run together, on the meta device: no weights, no parts.

    Args:
        visual, audio: the chosen backbones; an ``audio`` without one shares the visual trunk.
        registry: where their names are looked up.
        streams: ``visual``, ``audio`` or ``both``.
        segments: T.
        windows: the pieces of sound that go with the segments, where they are known.
        pairing: as in `make_plan`.

    Raises:
        AVCoreError: a name is unknown, or a setting does not fit its backbone.
    """
    chosen = {stream: {"visual": visual, "audio": audio}[stream] for stream in _running(streams)}
    with WithoutValues():
        return _streams(chosen, visual, registry, segments, windows, pairing=pairing)[0]


def model_of(streams: StreamSet, listed: Sequence[ListedPart], windows: Windows) -> AVModel:
    """Streams with parts on them, without a task and with a head that does nothing.

    Args:
        streams: as `streams_of` makes them.
        listed: the parts, with their settings.
        windows: that the streams were made for.

    Raises:
        AVCoreError: parts need what the streams lack, or do not go together.
    """
    segments, task = next(iter(streams.layouts.values())).segments, Task(None)
    return AVModel(
        config=RunConfig(task="none", head=Chosen(name="none")),
        task=task,
        head=Head(None, streams.layouts, task),
        streams={
            name: Stream(name, tower, _front_end(tower, windows, segments), segments)
            for name, tower in streams.towers.items()
        },
        instances=mount_parts(listed, streams, 0),
        plan=streams.plan,
        segments=segments,
        clip_seconds=segments * windows.length,
        windows=windows,
    )


def _streams(
    chosen: Mapping[str, StreamConfig],
    shared: StreamConfig,
    registry: Registry,
    segments: int,
    windows: Windows | None = None,
    *,
    pairing: str | Sequence[tuple[int, int]] = "even",
) -> tuple[StreamSet, list[str]]:
    towers, notices = _towers(chosen, shared, registry, segments, windows)
    layouts = {stream: tower.layout for stream, tower in towers.items()}
    plan = make_plan(layouts.get("visual"), layouts.get("audio"), pairing)
    for stream, tower in towers.items():
        paired = frozenset(index for entry in plan if entry.paired and (index := getattr(entry, stream)) is not None)
        trunk = stream if chosen[stream].backbone is not None else "visual"
        tower.layout = replace(tower.layout, name=stream, trunk=trunk, paired=paired)
    return StreamSet(towers, plan), notices


def _encoders(config: RunConfig, registry: Registry) -> tuple[dict[str, Tower], list[str]]:
    """The streams that the head calls by itself, and what the user must be told of them."""
    found: dict[str, Tower] = {}
    notices: list[str] = []
    for name in TEXTS:
        chosen: StreamConfig = getattr(config, name)
        if chosen.backbone is None:
            continue
        towers, told = _towers({TEXT: chosen}, chosen, registry, 1)
        tower = towers[TEXT]
        if not isinstance(tower, TextTower):
            option = name.replace("_", "-")
            raise AssemblyError(f"--{option} {chosen.backbone}: {type(tower).__name__} is no encoder of sentences.")
        tower.layout = replace(tower.layout, name=name, trunk=name)
        found[name] = tower
        notices += told
    return found, notices


def _running(streams: str) -> tuple[str, ...]:
    return STREAMS if streams == "both" else (streams,)


def _towers(
    chosen: Mapping[str, StreamConfig],
    shared: StreamConfig,
    registry: Registry,
    segments: int,
    windows: Windows | None = None,
) -> tuple[dict[str, Tower], list[str]]:
    """The towers of the chosen streams; one without a backbone of its own uses that of ``shared``."""
    backbones: dict[str, Backbone] = {}
    towers: dict[str, Tower] = {}
    for stream, own in chosen.items():
        holder = own if own.backbone is not None else shared
        if holder.backbone is None:
            raise AssemblyError(
                "No visual backbone is chosen: use --visual NAME ('avcore plugins list' names the families installed, "
                "'avcore plugins show FAMILY' their members)."
            )
        key = stream if own.backbone is not None else "visual"
        spec, preset = registry.backbones.find(holder.backbone)
        if stream not in spec.streams:
            raise AssemblyError(
                f"'{holder.backbone}' serves the {' and '.join(spec.streams)} stream only: choose another backbone for "
                f"the {stream} stream with --{stream}."
            )
        plugin, of = registry.plugin(registry.backbones, holder.backbone), f"backbone '{holder.backbone}'"
        if key not in backbones:
            bare = holder.backbone.rpartition(":")[2]  # without the distribution that was chosen
            build = spec.load()
            check_build(build, ("settings",), keywords=("name", "preset"), plugin=plugin, of=of)
            backbones[key] = build(holder.settings, name=bare, preset=preset)
            check_overrides(type(backbones[key]), Backbone, plugin=plugin, of=of)
        tower = towers[stream] = backbones[key].tower(stream, own.settings, segments, windows)
        check_overrides(type(tower), TextTower if isinstance(tower, TextTower) else Tower, plugin=plugin, of=of)
        for kind in {type(tower.block(index)) for index in range(tower.layout.depth)}:
            check_overrides(kind, Block, plugin=plugin, of=of)
    return towers, [notice for backbone in backbones.values() for notice in backbone.notices]
