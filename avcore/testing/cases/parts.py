"""A part under test, in models on toy backbones of every class of layout."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from avcore.discovery.signatures import PluginFailureError
from avcore.errors import AVCoreError, PluginError
from avcore.model import AVModel, PartInstance
from avcore.specs import STREAMS, PartSpec
from avcore.states import parameter_groups
from avcore.tasks import Batch, Features
from avcore.testing import partners
from avcore.testing.backbones import ToyBackbones
from avcore.testing.checks import Skipped, refusal
from avcore.testing.subject import Subject
from avcore.testing.toys import make_batch, make_model

__all__ = [
    "CLASSES",
    "NO_GRADIENT",
    "ODD",
    "ONE_STREAM",
    "OTHER_GRID",
    "UNEQUAL",
    "CrashError",
    "PartCase",
    "Setup",
    "objective",
    "restored",
    "tensors_of",
    "train",
]

NO_GRADIENT = "would get no gradient"
"""What assembly says of parameters that nothing reaches."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Backbones to put a part into.

    Attributes:
        words: what they are, for messages.
        visual, audio: names of toys; without ``audio`` both streams share one trunk.
        sets: sizes.
        segments: T; odd, so that M = B*T is odd where B is.
        streams: which run.
    """

    words: str
    visual: str
    audio: str | None = None
    sets: tuple[str, ...] = ()
    segments: int = 3
    streams: str = "both"

    @property
    def settings(self) -> tuple[str, ...]:
        """As ``key=value``."""
        return (*self.sets, *([f"audio.backbone={self.audio}"] if self.audio else []))


PLAIN = Setup(words="a plain backbone shared by both streams", visual="toy_plain")
WINDOWED = Setup(words="a windowed backbone shared by both streams", visual="toy_windowed")
UNEQUAL = Setup(
    words="a windowed backbone for pictures and one with norms behind its sums for sound",
    visual="toy_windowed",
    audio="toy_post_norm",
)
CLASSES = (PLAIN, WINDOWED, UNEQUAL)
OTHER_GRID = Setup(
    words="a plain backbone with another grid for sound than for pictures",
    visual="toy_plain",
    sets=("audio.mel_bins=8",),
)
ODD = (
    Setup(
        words="a plain backbone on grids of 3 x 3 and 3 x 5",
        visual="toy_plain",
        sets=("visual.size=12", "audio.frames=12", "audio.mel_bins=20"),
    ),
    Setup(
        words="a plain backbone on grids of 3 x 3",
        visual="toy_plain",
        sets=("visual.size=12", "audio.frames=12", "audio.mel_bins=12"),
    ),
    Setup(
        words="a windowed backbone with windows of 3 x 3",
        visual="toy_windowed",
        sets=("visual.size=24", "audio.frames=24", "audio.mel_bins=24"),
    ),
)
ONE_STREAM = (
    Setup(words="a plain backbone for pictures alone", visual="toy_plain", streams="visual"),
    Setup(words="a plain backbone for sound alone", visual="toy_plain", streams="audio"),
)


class CrashError(Exception):
    """Assembly, or the first forward, failed with something else than a refusal."""

    @property
    def breaks_a_rule(self) -> bool:
        """avcore itself says what the author has to mend: a signature, a name, a tensor changed in place."""
        return isinstance(self.__cause__, PluginError) and not isinstance(self.__cause__, PluginFailureError)


@dataclass(frozen=True)
class PartCase:
    """A prompt or fusion under test.

    Attributes:
        classes: the backbones that it is tried on.
    """

    subject: Subject
    spec: PartSpec
    classes: tuple[Setup, ...] = CLASSES
    _models: dict[Any, AVModel | Exception] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """As users write it."""
        return self.spec.name

    @property
    def config(self) -> Any:
        """The settings that it is checked with, as far as they can be had without a model: the defaults."""
        return self.spec.config()

    def model(self, setup: Setup, *, mixed: str = "", again: int = 0, on_meta_first: bool = False) -> AVModel:
        """The part in a model, in evaluation mode; made once for equal arguments.

        Args:
            setup: the backbones.
            mixed: ``before`` or ``after``: where the reference partners stand in the lists of parts.
            again: another number makes another model of the same.
            on_meta_first: as in `make_model`.

        Raises:
            AVCoreError: the combination is refused.
            CrashError: it fails with anything else.
        """
        key = (setup, mixed, again, on_meta_first)
        if key not in self._models:
            try:
                self._models[key] = self._assemble(setup, mixed, on_meta_first)
            except Exception as error:
                self._models[key] = error if _refuses(error) else _crash(error)
        found = self._models[key]
        if isinstance(found, Exception):
            raise found
        return found

    def bare(self, setup: Setup) -> AVModel:
        """The same backbones without any part."""
        return _bare(setup)

    def taken(self, setup: Setup) -> bool:
        """The part is not refused; raises CrashError where the model fails with anything else."""
        return refusal(lambda: self.model(setup)) is None

    def models(self, setups: Sequence[Setup] = ()) -> list[tuple[Setup, AVModel]]:
        """The models of those setups, `classes` by default, that take the part.

        Raises:
            Skipped: none does; says why.
        """
        found, reasons = [], []
        for setup in setups or self.classes:
            try:
                found.append((setup, self.model(setup)))
            except (AVCoreError, CrashError) as error:
                reasons.append(f"{setup.words}: {error}")
        if not found:
            raise Skipped(f"'{self.name}' is in no model. {' '.join(reasons)}")
        return found

    def first(self, setups: Sequence[Setup] = ()) -> tuple[Setup, AVModel]:
        """The first of `models`, without making the others."""
        reasons = []
        for setup in setups or self.classes:
            try:
                return self.models([setup])[0]
            except Skipped as refused:
                reasons.append(str(refused))
        raise Skipped(" ".join(reasons))

    def instances(self, model: AVModel) -> list[PartInstance]:
        """The part itself in a model, one instance for each stream if it is a prompt."""
        return [part for part in model.instances if part.name == self.name]

    def _assemble(self, setup: Setup, mixed: str, on_meta_first: bool) -> AVModel:
        try:
            return self._made(setup, mixed, on_meta_first, ())
        except AVCoreError as alone:
            companions = self._companions()
            if not companions:
                raise
            try:
                return self._made(setup, mixed, on_meta_first, companions)
            except AVCoreError:
                raise alone from None

    def _companions(self) -> tuple[str, ...]:
        """The other parts of the methods that list it: a part may be made to stand beside them only."""
        listed: list[str] = []
        for method in self.subject.specs("methods"):
            parts = (*method.prompts, *method.fusions)
            if self.name in parts:
                listed += [name for name in parts if name != self.name]
        return tuple(dict.fromkeys(listed))

    def _made(self, setup: Setup, mixed: str, on_meta_first: bool, companions: Sequence[str]) -> AVModel:
        own = [self.name, *companions]
        beside = [*partners.PROMPTS, *(partners.FUSIONS if setup.streams == "both" else ())]
        model = make_model(
            ToyBackbones(),
            setup.visual,
            listed={"": own, "before": [*beside, *own], "after": [*own, *beside]}[mixed],
            others={**self.subject.modules, "partners": partners.Partners()},
            sets=(*setup.settings, *self.subject.sets_of(self.name, *companions)),
            segments=setup.segments,
            streams=None if setup.streams == "both" else setup.streams,
            on_meta_first=on_meta_first,
        )
        try:
            with torch.no_grad():
                model.features(make_batch(model))
        except AVCoreError as error:
            if _raised_by_core(error):
                raise CrashError(str(error)) from error
            raise
        return model


def _refuses(error: Exception) -> bool:
    """A refusal of a combination, not of what the part's author wrote."""
    return isinstance(error, CrashError) or (isinstance(error, AVCoreError) and not isinstance(error, PluginError))


def _crash(error: Exception) -> CrashError:
    raised = error.__cause__ if isinstance(error, PluginFailureError) else error
    made = CrashError(str(error) if isinstance(raised, PluginError) else f"{type(raised).__name__}: {raised}")
    made.__cause__ = error
    return made


def _raised_by_core(error: AVCoreError) -> bool:
    """The core itself refuses what a part does in the forward: that is the author's affair, and no user's."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals["__name__"]).startswith("avcore.")


@cache
def _bare(setup: Setup) -> AVModel:
    streams = None if setup.streams == "both" else setup.streams
    return make_model(
        ToyBackbones(),
        setup.visual,
        sets=setup.settings,
        segments=setup.segments,
        streams=streams,
        on_meta_first=False,
    )


def tensors_of(features: Features) -> dict[str, Tensor]:
    """Everything that leaves the streams, by name."""
    found: dict[str, Tensor] = {}
    for name in STREAMS:
        stream = getattr(features, name)
        if stream is not None:
            found |= {f"{name} {field}": getattr(stream, field) for field in ("pooled", "tokens", "raw_tokens")}
            found |= {f"{name} map {number}": tensor for number, tensor in enumerate(stream.maps)}
    return found


def objective(model: AVModel, batch: Batch) -> Tensor:
    """A number that everything in a model has a part in: what leaves the streams, offers, and all losses."""
    out = model(batch)
    reached = [*tensors_of(out.features).values(), *(x for offered in out.features.offers.values() for x in offered)]
    terms = [tensor.float().square().mean() for tensor in reached if tensor.requires_grad]
    total: Tensor = model.loss(out, batch).float() + sum(terms)
    return total


def train(model: AVModel, steps: int = 2, *, clips: int = 3) -> None:
    """Train for a few steps."""
    parameters = [parameter for group in parameter_groups(model).values() for _, parameter in group]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    model.train()
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        objective(model, make_batch(model, clips, seed=step)).backward()
        optimizer.step()
    model.eval()


@contextmanager
def restored(model: AVModel) -> Iterator[AVModel]:
    """Put back what a check changes of a model: weights, buffers, types, gradients, modes, and the random state."""
    parameters = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in model.parameters()]
    buffers = [
        (module, name, tensor, tensor.detach().clone())
        for module in model.modules()
        for name, tensor in module.named_buffers(recurse=False)
    ]
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            yield model
        finally:
            model.zero_grad(set_to_none=True)
            for parameter, value, needed in parameters:
                parameter.data = value
                parameter.requires_grad_(needed)
            for module, name, buffer, value in buffers:
                # A cast puts other tensors into the places of buffers.
                buffer.data = value
                setattr(module, name, buffer)
            for module, training in modes:
                module.training = training
