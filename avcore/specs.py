"""The records that plugins hand to avcore: what exists, what it is called, where its code lives.

Nothing here imports torch. A spec names its implementation as ``"package.module:Name"``; it is imported when it is
first used. Shape letters: B clips, T segments, M = B*T, N tokens, D width, H heads, Y and X image rows and columns,
K sentences, L ids of each.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from avcore.errors import PluginError
from avcore.geometry import AudioGeometry, FilterBankGeometry, ImageGeometry, MelGeometry, TextGeometry, Windows

__all__ = [
    "STREAMS",
    "TEXT",
    "TEXTS",
    "AudioGeometry",
    "BackboneSpec",
    "BlockLayout",
    "ClipSettings",
    "DatasetSpec",
    "FilterBankGeometry",
    "FusionSpec",
    "HeadSpec",
    "ImageGeometry",
    "MelGeometry",
    "MethodSpec",
    "Need",
    "NoConfig",
    "PartSpec",
    "PromptSpec",
    "RecordingSettings",
    "Spec",
    "StageLayout",
    "StreamLayout",
    "TaskSpec",
    "TextGeometry",
    "Windows",
    "resolve",
]

STREAMS = ("visual", "audio")
"""The streams that every clip has. They run side by side, and fusions join them."""
TEXT = "text"
"""The stream of sentences. It belongs to no clip: a head calls it on as many sentences as it likes."""
TEXTS = (TEXT, "text_audio")
"""The streams of sentences that a head may call. What is compared with sound goes to ``text_audio`` where sound was
trained beside other sentences than pictures were; where there is no such encoder, to ``text`` too."""
AS_OWN = ("width", "grid", "windows")
"""What a fusion may read of the other stream as its own."""


def resolve(target: str | Callable[..., Any]) -> Any:
    """Import and return the object that ``"package.module:Name"`` names; what is no text is the object itself.

    Raises:
        AVCoreError: the text is no such reference, the module cannot be imported, or it has no such name.
    """
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    if not module or not name:
        raise PluginError(f"'{target}' is not a reference of the form 'package.module:Name'.")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise PluginError(f"'{target}' cannot be imported: {error}.") from error
    try:
        return getattr(found, name)
    except AttributeError:
        raise PluginError(f"Module '{module}' has no '{name}' (asked for by '{target}').") from None


# --------------------------------------------------------------------------------------------------------------------
# Layouts: the shape of what flows through a backbone. Data, no weights. What it takes in is in `avcore.geometry`.


@dataclass(frozen=True, kw_only=True)
class StageLayout:
    """A run of blocks of one width on one token grid.

    ``grid`` is (rows, columns) of patch tokens; ``prefix`` tokens (class, registers) come before them. Sentences are
    one row: (1, L).
    ``window`` is the side lengths of an attention window in tokens, None where attention sees the whole grid.
    ``mlp`` is how many numbers ``fc1`` gives and ``fc2`` takes, None where the MLP has no such maps: what a part needs
    to know to make increments of them in ``projection``.
    """

    width: int
    heads: int
    depth: int
    grid: tuple[int, int]
    prefix: int = 0
    window: tuple[int, int] | None = None
    mlp: tuple[int, int] | None = None

    @property
    def tokens(self) -> int:
        """N: prefix tokens and patch tokens together."""
        return self.prefix + self.grid[0] * self.grid[1]


@dataclass(frozen=True, kw_only=True)
class BlockLayout:
    """What a layer may know of the block it is made for. ``index`` counts from 0 over the whole stream."""

    index: int
    stage: int
    width: int
    heads: int
    tokens: int
    grid: tuple[int, int]
    prefix: int
    window: tuple[int, int] | None
    mlp: tuple[int, int] | None
    depth: int
    stages: int
    segments: int
    paired: bool

    @property
    def from_end(self) -> int:
        """1 for the last block of the stream, 2 for the one before it, ..."""
        return self.depth - self.index


@dataclass(frozen=True, kw_only=True)
class StreamLayout:
    """A stream as parts and heads see it: its stages, T segments a clip, and which blocks run beside the other stream.

    ``taps`` are the blocks (counted from 0) after which `Features` keeps a map; without any, those at a quarter, half,
    three quarters and the end, each once. ``pool`` says how the pooled vector is made: from the ``class`` token, as the
    ``mean`` of all tokens, by ``attention``, or from the token at the ``end`` of a sentence. ``name`` is ``visual``,
    ``audio``, ``text`` or ``text_audio``; streams of equal ``trunk`` share frozen weights. ``shared`` is the width of
    the space into which `Tower.project` brings pooled vectors, where those of other modalities lie too; None where the
    tower has no such map.
    """

    stages: tuple[StageLayout, ...]
    segments: int
    taps: tuple[int, ...] = ()
    pool: str = "class"
    paired: frozenset[int] = frozenset()
    name: str = ""
    trunk: str = ""
    shared: int | None = None

    def __post_init__(self) -> None:
        if not self.taps:
            ends = dict.fromkeys((self.depth * quarter + 3) // 4 - 1 for quarter in (1, 2, 3, 4))
            object.__setattr__(self, "taps", tuple(ends))

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(stage.depth for stage in self.stages)

    @property
    def width(self) -> int:
        """Width of the features that leave the stream."""
        return self.stages[-1].width

    @cached_property
    def blocks(self) -> tuple[BlockLayout, ...]:
        """Every block in order."""
        made: list[BlockLayout] = []
        for number, stage in enumerate(self.stages):
            for _ in range(stage.depth):
                made.append(
                    BlockLayout(
                        index=len(made),
                        stage=number,
                        width=stage.width,
                        heads=stage.heads,
                        tokens=stage.tokens,
                        grid=stage.grid,
                        prefix=stage.prefix,
                        window=stage.window,
                        mlp=stage.mlp,
                        depth=self.depth,
                        stages=len(self.stages),
                        segments=self.segments,
                        paired=len(made) in self.paired,
                    )
                )
        return tuple(made)

    @property
    def tapped(self) -> tuple[StageLayout, ...]:
        """The stage of each tap: width and grid of the maps that heads receive."""
        blocks = self.blocks
        return tuple(self.stages[blocks[tap].stage] for tap in self.taps)


# --------------------------------------------------------------------------------------------------------------------
# Specs: one record for each thing that a plugin offers.


class Need(StrEnum):
    """What a part asks of the streams it is put into; assembly and ``avcore plugins matrix`` refuse what lacks it."""

    BOTH_STREAMS = "both streams"
    EQUAL_WIDTHS = "equal widths"
    EQUAL_GRIDS = "equal grids"
    CLASS_TOKEN = "a class token"


@dataclass(frozen=True, kw_only=True)
class NoConfig:
    """Settings of something that has none."""


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How a data set cuts its clips; the base class of data set settings.

    T windows of sound of ``window_seconds`` start at equal spacing from 0 to (duration - ``window_margin``); the
    reference code's margin is 0.1 s longer than its window.
    """

    segments: int = field(default=10, metadata={"help": "T, segments of a clip: pictures and one window of sound each"})
    clip_seconds: float = field(default=10.0, metadata={"help": "length of a clip in s"})
    window_seconds: float = field(default=1.0, metadata={"help": "length of a window of sound in s"})
    window_margin: float = field(default=1.1, metadata={"help": "the last window starts this long before the end, s"})

    def __post_init__(self) -> None:
        for key in ("segments", "clip_seconds"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be above 0, not {getattr(self, key)}")
        if not 0 < self.window_seconds <= self.window_margin:
            raise ValueError(
                f"window_margin must be at least window_seconds ({self.window_seconds}), not {self.window_margin}: "
                "the last piece of sound would end after the clip"
            )


@dataclass(frozen=True, kw_only=True)
class RecordingSettings(ClipSettings):
    """How recordings of any length become clips of one length, and which split each of them is in.

    Settings of readers that derive from `avcore.data.recordings.Recordings`.
    """

    long: Literal["cut", "first", "middle"] = field(
        default="cut", metadata={"help": "of a longer recording all of it, cut into clips, or one clip: first, middle"}
    )
    fractions: tuple[float, float, float] = field(
        default=(0.7, 0.15, 0.15),
        metadata={"help": "shares of train, val and test of recordings that nothing assigns to a split"},
    )
    split_seed: int = field(default=0, metadata={"help": "another number is another such split"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.fractions) < 0 or self.fractions[0] <= 0:
            raise ValueError(f"fractions must not be negative, and that of train above 0, not {list(self.fractions)}")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What all specs share.

    Attributes:
        name: what users write.
        build: the implementation, ``"package.module:Name"``.
        config: the frozen dataclass of its settings; every field has a default. Of a task or a data set, a field with
            ``metadata={"option": "N"}`` is an option of the command line too, whose value help calls N.
        paper: the source, such as ``"arXiv:2203.12119"``.
        summary: one line for ``avcore plugins list``.
    """

    name: str
    build: str = ""
    config: type = NoConfig
    paper: str = ""
    summary: str = ""

    def load(self) -> Any:
        """Import the implementation."""
        return resolve(self.build)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Spec):
    """A family of frozen encoders.

    Attributes:
        presets: the named members, each with what ``build`` and readers want to know of it.
        patterns: shell patterns of further names that ``build`` may know (``"vit_*"``).
        streams: which streams it serves: ``visual``, ``audio``, ``text``, or several of them.
        converter: ``"package.module:function"`` that renames published weights for ``avcore convert``; empty if they
            need no renaming. ``convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]`` returns them under the keys
            of `Tower.weights`; unknown keys it leaves as they are.

    ``build(settings, name=..., preset=...)`` follows `avcore.backbones.BackboneBuilder`.
    """

    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()
    streams: tuple[str, ...] = STREAMS
    converter: str = ""


def _no_needs(config: Any) -> frozenset[Need]:
    return frozenset()


@dataclass(frozen=True, kw_only=True)
class PartSpec(Spec):
    """What prompts and fusions share.

    Attributes:
        requires: what the part needs of the streams, given its settings.
        finishes: the fields of `Features` that its ``finish`` replaces.
        identity_at_start: with its default settings and before any training, the part leaves all features as the
            frozen backbones make them; `avcore.testing` holds it to that.
    """

    requires: Callable[[Any], frozenset[Need]] = _no_needs
    finishes: frozenset[str] = frozenset()
    identity_at_start: bool = False


@dataclass(frozen=True, kw_only=True)
class PromptSpec(PartSpec):
    """A part that acts on one stream; ``build`` names a `Prompt`, or a `PromptLayer` to be made for every block."""


@dataclass(frozen=True, kw_only=True)
class FusionSpec(PartSpec):
    """A part that reads both streams; ``build`` names a `Fusion`, or a `FusionLayer` to be made for every pair.

    Attributes:
        as_own: what it reads of the other stream as if that were its own, by ``at.visual.as_own`` and
            ``at.audio.as_own``: the ``width``, the ``grid``, the ``windows``, or several of them. Where two blocks
            differ, the plan makes the trained maps.
    """

    as_own: tuple[str, ...] = ()
    requires: Callable[[Any], frozenset[Need]] = lambda config: frozenset({Need.BOTH_STREAMS})


@dataclass(frozen=True, kw_only=True)
class HeadSpec(Spec):
    """Features to output, loss and prediction; ``build(config, layouts, task)`` is a `Head`.

    Attributes:
        serves: the kinds of task (`TaskSpec.kind`), or the tasks by name, that it is made for; empty for any.
        untrained: it answers without training and has nothing to train: ``--zero-shot`` takes it.
        encoders: further streams that the head calls by itself, given its settings: ``("text",)`` for an encoder of
            sentences, chosen by ``--text`` and found in ``Features.encoders``. With ``("text", "text_audio")`` it may
            be given another one for what it compares with sound, ``--text-audio``; nobody has to.
        defaults: settings of the run that the head brings, given its settings, below all others: such as how the task
            reads its inputs. Of a backbone or a data set, settings that the chosen one does not have are left out.
    """

    serves: tuple[str, ...] = ()
    untrained: bool = False
    encoders: Callable[[Any], tuple[str, ...]] | tuple[str, ...] = ()
    defaults: Callable[[Any], Mapping[str, Any]] | Mapping[str, Any] = field(default_factory=dict)

    def calls(self, settings: Any) -> tuple[str, ...]:
        """The further streams that the head calls with these settings."""
        return self.encoders(settings) if callable(self.encoders) else self.encoders

    def brings(self, settings: Any) -> Mapping[str, Any]:
        """The settings of the run that the head brings with these settings of its own."""
        return self.defaults(settings) if callable(self.defaults) else self.defaults

    def takes(self, task: "TaskSpec") -> bool:
        """Whether it is made for a task."""
        return not self.serves or bool({task.name, task.kind} & set(self.serves))


@dataclass(frozen=True, kw_only=True)
class TaskSpec(Spec):
    """Targets, metrics, drawing; ``build(config)`` is a `Task`.

    Attributes:
        head: the name of its default head.
        kind: what is predicted: ``segments`` (a class for each), ``clip`` (a class for each clip), ``masks``,
            ``answer``, ``parsing``, or a word of the author's own; heads name the kinds that they serve.
        words: the setting of its own that takes the names of whatever classes a person writes, as ``avcore predict
            --zero-shot`` does; empty for a task whose classes are those of its data.
        aliases: other names (``avs-s4`` for ``avs``).
        defaults: settings of the run that this task brings, below those of method and recipe.
    """

    head: str
    kind: str = ""
    words: str = ""
    aliases: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """A reader of files; ``build(config, root, task)``, with the `Task`, is a `Dataset`.

    Attributes:
        config: derives from `ClipSettings`.
        tasks: the tasks it serves.
        default_for: the tasks whose default it is when the user names no data root (the demo).
        provide: ``"module:function"`` that makes the files when no root is named:
            ``provide(task, cache, progress) -> root``;
            ``progress(done, total)`` is called as it goes, or None.
        defaults: settings of the run that this data set brings, above those of the recipe.
        as_published: the same under ``protocol=paper``, above ``defaults``: where clips are chosen otherwise.
        reads: ``"module:function"`` for settings that only the files know, such as the names of their classes:
            ``reads(root) -> mapping``, above ``defaults``. Called when a run is configured and the root exists.
        marks: files by which it is known, such as ``("Annotations.txt",)``: patterns of `Path.glob` below the root, one
            of which is enough. Of several data sets of a task the one whose files are there is taken; one without
            marks where no other's are.
        demo: scores on it mean nothing beside published ones.
        official: split -> how many clips it has as it was published. Only where a run's splits have as many are
            published scores shown beside its own; without this, never.
    """

    config: type = ClipSettings
    tasks: tuple[str, ...]
    default_for: tuple[str, ...] = ()
    provide: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    as_published: Mapping[str, Any] = field(default_factory=dict)
    reads: str = ""
    marks: tuple[str, ...] = ()
    demo: bool = False
    official: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MethodSpec(Spec):
    """A published method: a named list of prompts and fusions, and a package with its recipes.

    Attributes:
        prompts, fusions: names of parts; none for a method that is a head alone, which ``defaults`` name.
        recipes: the package that holds ``recipes/<task>[.<variant>].yaml``, and ``recipes/<task>.demo.yaml`` for what
            its parts need on a demo.
        defaults: settings common to its recipes.
        converter: ``"package.module:function"`` that renames the checkpoints of the reference code; empty if there is
            none. ``convert(state: Mapping[str, Tensor], model: AVModel) -> dict[str, Tensor]`` gets the official
            tensors and a model of shapes without weights. It returns trained tensors under the keys of
            `avcore.trainable_state`, frozen ones under ``visual.<key>`` or ``audio.<key>``, with a key of the stream's
            `Tower.weights` or the name of one of its buffers, and keys that it does not know under
            ``unknown.<official key>``. What the reference itself never uses it leaves out, by name.
    """

    prompts: tuple[str, ...] = ()
    fusions: tuple[str, ...] = ()
    recipes: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    converter: str = ""
