"""The smallest task, head and data set around parts and backbones under test.

``make_model(avcore_timm, "NAME", prompts={"mine": MyPrompt})`` is a whole `AVModel` on random weights, classes given
directly instead of by the strings of a spec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avcore.assemble import _build, assemble
from avcore.backbones import digest
from avcore.config import resolve_config
from avcore.hookspecs import hookimpl
from avcore.injection import Fusion, FusionLayer, Prompt, PromptLayer
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import DatasetSpec, FusionSpec, HeadSpec, PromptSpec, StreamLayout, TaskSpec
from avcore.tasks import Batch, Features, Head, Progress, Task

__all__ = ["LinearHead", "ToyPlugin", "ToyTask", "at_hand", "create_model", "make_batch", "make_model"]

PromptClass = type[Prompt] | type[PromptLayer]
FusionClass = type[Fusion] | type[FusionLayer]


class LinearHead(Head):
    """A linear map of the pooled vectors of the streams that run, to three numbers for each segment."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.map = nn.Linear(sum(layout.width for layout in layouts.values()), 3)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """``logits`` (B, T, 3), and all else that parts change, so that assembly leaves no parameter untrained."""
        pooled = [stream.pooled for stream in features.streams.values()]
        seen = {f"{name}.tokens": stream.tokens for name, stream in features.streams.items()}
        seen |= {f"{name}.map_{at}": x for name, stream in features.streams.items() for at, x in enumerate(stream.maps)}
        seen |= {f"{name}.{at}": x for name, offered in features.offers.items() for at, x in enumerate(offered)}
        return {"logits": self.map(torch.cat(pooled, -1).to(self.map.weight.dtype)), **seen}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The mean square of the logits."""
        return {"square": output["logits"].square().mean()}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        """The largest of the three."""
        return {"classes": output["logits"].argmax(-1)}


class ToyTask(Task):
    """A task without metrics."""

    score = "nothing"
    prediction: ClassVar[Mapping[str, str]] = {"classes": "segment"}


def at_hand(kind: Any, /, *, name: str, thing: Any, **fields: Any) -> Any:
    """A spec whose implementation is ``thing`` instead of named by a string.

    Args:
        kind: the class of the spec, such as `PromptSpec`.
        name: of what it offers.
        thing: what its ``load`` returns.
        fields: the spec's other fields.
    """

    class SpecAtHand(kind):  # type: ignore[misc]
        def load(self) -> Any:
            return thing

    return SpecAtHand(name=name, build="at:hand", **fields)


class ToyPlugin:
    """A plugin that offers classes of a test as parts, and the task ``toy`` with head and data set.

    Args:
        prompts, fusions: name to class.
        segments: T; a clip lasts as many seconds.
        fields: for some names, further fields of their spec (``config``, ``requires``, ``finishes``).
    """

    def __init__(
        self,
        *,
        prompts: Mapping[str, PromptClass] | None = None,
        fusions: Mapping[str, FusionClass] | None = None,
        segments: int = 2,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        given = fields or {}
        self._prompts = [
            at_hand(PromptSpec, name=name, thing=thing, **given.get(name, {}))
            for name, thing in (prompts or {}).items()
        ]
        self._fusions = [
            at_hand(FusionSpec, name=name, thing=thing, **given.get(name, {}))
            for name, thing in (fusions or {}).items()
        ]
        self._clip = {"data.segments": segments, "data.clip_seconds": float(segments)}

    @hookimpl
    def avcore_prompts(self) -> list[PromptSpec]:
        """The prompts."""
        return self._prompts

    @hookimpl
    def avcore_fusions(self) -> list[FusionSpec]:
        """The fusions."""
        return self._fusions

    @hookimpl
    def avcore_heads(self) -> list[HeadSpec]:
        """``toy.linear``."""
        return [at_hand(HeadSpec, name="toy.linear", thing=LinearHead)]

    @hookimpl
    def avcore_tasks(self) -> list[TaskSpec]:
        """``toy``."""
        return [at_hand(TaskSpec, name="toy", thing=ToyTask, head="toy.linear")]

    @hookimpl
    def avcore_datasets(self) -> list[DatasetSpec]:
        """``toy-data``, which only says how a clip is cut."""
        return [DatasetSpec(name="toy-data", build="at:hand", tasks=("toy",), defaults=self._clip)]


def make_model(
    backbones: Any,
    name: str,
    *,
    prompts: Mapping[str, PromptClass] | None = None,
    fusions: Mapping[str, FusionClass] | None = None,
    listed: Sequence[str] = (),
    others: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    segments: int = 2,
    streams: str | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    on_meta_first: bool = True,
) -> AVModel:
    """A model of the parts given, on random weights, in evaluation mode.

    Args:
        backbones: the light module of a plugin with backbones.
        name: of one of them.
        prompts, fusions: parts of the model, name to class.
        listed: names of further prompts and fusions, offered by avcore or by ``others``.
        others: further plugins, distribution to light module.
        sets: settings, ``key=value``; ``visual.weights=random`` is set already.
        segments: T.
        streams: ``visual``, ``audio`` or ``both``.
        fields: as in `ToyPlugin`.
        on_meta_first: assemble as runs do, with a backward pass on the meta device first, which takes most of the time.
    """
    plugin = ToyPlugin(prompts=prompts, fusions=fusions, segments=segments, fields=fields)
    registry = Registry.from_modules({"backbones": backbones, "toys": plugin, **(others or {})})
    further = {True: [name for name in listed if name in registry.prompts]}
    further[False] = [name for name in listed if name not in further[True]]
    resolved = resolve_config(
        registry,
        task="toy",
        prompts="+".join([*(prompts or {}), *further[True]]) or "none",
        fusions="+".join([*(fusions or {}), *further[False]]) or "none",
        visual=name,
        streams=streams,
        options={"data.dataset": "toy-data"},
        sets=("visual.weights=random", *sets),
        need_data=False,
    )
    if on_meta_first:
        return assemble(resolved.config, registry).eval()
    model = _build(resolved.config, registry)
    model.backbone_digest = digest(model.towers)
    return model.eval()


def create_model(
    plugins: Mapping[str, Any],
    *,
    task: str,
    method: str | None = None,
    prompts: str | None = None,
    fusions: str | None = None,
    visual: str | None = None,
    audio: str | None = None,
    streams: str | None = None,
    recipe: str | None = None,
    data: str | Path | None = None,
    set: Sequence[str] = (),
    meta: bool = False,
) -> AVModel:
    """`avcore.create_model` from the plugins given and the core alone, whatever is installed.

    Args:
        plugins: distribution to light module, or to an object with the same hooks.
        task, method, prompts, fusions, visual, audio, streams, recipe, set, meta: as in `avcore.create_model`.
        data: the folder whose files say more of the configuration, such as their classes.

    Raises:
        AVCoreError: a name or a setting is wrong, or the combination cannot run; says why.
    """
    registry = Registry.from_modules(plugins)
    resolved = resolve_config(
        registry,
        task=task,
        method=method,
        prompts=prompts,
        fusions=fusions,
        visual=visual,
        audio=audio,
        streams=streams,
        recipe=recipe,
        data=data,
        sets=tuple(set),
        need_data=False,
    )
    return assemble(resolved.config, registry, meta=meta)


def make_batch(model: AVModel, clips: int = 2, *, seed: int = 1) -> Batch:
    """Noise in the shapes that a model takes."""
    draws = torch.Generator().manual_seed(seed)
    frames = waveform = None
    if model.image is not None:
        shape = (clips, model.segments, *model.image.shape)
        frames = torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)
    if model.sound is not None:
        heard = (clips, *model.sound.shape(model.clip_seconds))
        waveform = torch.randint(-9999, 9999, heard, generator=draws, dtype=torch.int16)
    return Batch(
        frames=frames,
        waveform=waveform,
        targets={},
        names=[f"clip {index}" for index in range(clips)],
        samples=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
        inputs={name: given.zeros(clips) for name, given in model.task.inputs.items()},
    )
