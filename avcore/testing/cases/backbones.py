"""A family of backbones under test: one of its members, on random weights and without parts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from avcore.assemble import _build, assemble
from avcore.backbones import Backbone, TextTower, Tower, digest
from avcore.config import RunConfig, resolve_config
from avcore.model import AVModel
from avcore.registry import Registry
from avcore.specs import STREAMS, TEXT, BackboneSpec
from avcore.testing.backbones import ToyBackbones
from avcore.testing.checks import Skipped
from avcore.testing.subject import Subject
from avcore.testing.toys import ToyPlugin

__all__ = ["BackboneCase", "random_weights"]

KEY = ".backbone="


@dataclass(frozen=True)
class BackboneCase:
    """A family of backbones under test.

    The member is named by a setting ``visual.backbone=NAME`` (or ``audio.backbone=NAME``) of those that the kit is
    given for the family; else it is the first preset whose name begins with ``test_``, else the first.
    """

    subject: Subject
    spec: BackboneSpec
    _models: dict[Any, AVModel] = field(default_factory=dict, repr=False)
    _texts: dict[str, TextTower] = field(default_factory=dict, repr=False)

    @cached_property
    def member(self) -> str:
        """The name of the member that is looked at.

        Raises:
            Skipped: the family has no preset, and none is named.
        """
        named = [text.partition(KEY)[2] for text in self.subject.sets_of(self.spec.name) if KEY in text]
        presets = sorted(self.spec.presets, key=lambda name: not name.startswith("test_"))
        for name in (*named, *presets):
            return name
        raise Skipped(
            f"'{self.spec.name}' has no presets: name a member with sets={{'{self.spec.name}': "
            f"['visual.backbone=NAME']}}."
        )

    def where(self, stream: str) -> str:
        """What is looked at, for messages."""
        return f"'{self.member}' as {stream} backbone"

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of a clip that it serves, in which a model is looked at."""
        return tuple(stream for stream in STREAMS if stream in self.spec.streams)

    def registry(self, segments: int = 3) -> Registry:
        """The plugin, what it requires, a toy task, and toys for the stream that the family does not serve."""
        kit: dict[str, Any] = {"the kit's task": ToyPlugin(segments=segments)}
        if len(self.streams) < len(STREAMS):
            kit["the kit's backbones"] = ToyBackbones()
        return Registry.from_modules({**kit, **self.subject.modules})

    def config(self, *, segments: int = 3, sets: Sequence[str] = ()) -> RunConfig:
        """The configuration of a model with the member in each stream that it serves, a toy in the other.

        Raises:
            Skipped: it serves no stream of a clip.
        """
        if not self.streams:
            raise Skipped(f"'{self.spec.name}' serves no stream of a clip.")
        given = [text for text in self.subject.sets_of(self.spec.name) if KEY not in text]
        given += [f"{stream}.{key}={value}" for stream in self.streams for key, value in self.random.items()]
        own = dict.fromkeys(self.streams, self.member)
        resolved = resolve_config(
            self.registry(segments),
            task="toy",
            prompts="none",
            fusions="none",
            visual=own.get("visual", "toy_plain"),
            audio=None if len(own) == 2 else own.get("audio", "toy_plain"),
            options={"data.dataset": "toy-data"},
            sets=(*given, *sets),
            need_data=False,
        )
        return resolved.config

    def model(self, *, segments: int = 3, sets: Sequence[str] = ()) -> AVModel:
        """A model on random weights, in evaluation mode; made once for equal arguments."""
        key = (segments, tuple(sets))
        if key not in self._models:
            model = _build(self.config(segments=segments, sets=sets), self.registry())
            model.backbone_digest = digest(model.towers)
            self._models[key] = model.eval()
        return self._models[key]

    def fresh(self) -> AVModel:
        """Another model, to be changed."""
        model = _build(self.config(), self.registry())
        model.backbone_digest = digest(model.towers)
        return model.eval()

    def shapes(self) -> AVModel:
        """The model on the meta device, without weights."""
        return assemble(self.config(), self.registry(), meta=True)

    def towers(self, model: AVModel) -> list[tuple[str, Tower]]:
        """The towers of the family in a model, by stream."""
        found = []
        for stream in self.streams:
            tower = model.towers[stream]
            assert isinstance(tower, Tower)
            found.append((stream, tower))
        return found

    def every_tower(self) -> list[tuple[str, Tower]]:
        """The towers of the family in a model, and the one that reads sentences, by stream."""
        found = self.towers(self.model()) if self.streams else []
        return [*found, (TEXT, self.text())] if TEXT in self.spec.streams else found

    @property
    def random(self) -> dict[str, str]:
        """See `random_weights`."""
        return random_weights(self.spec)

    def text(self) -> TextTower:
        """The tower that reads sentences, on random weights; the same one every time.

        Raises:
            Skipped: it reads none.
        """
        if TEXT not in self._texts:
            self._texts[TEXT] = self.fresh_text()
        return self._texts[TEXT]

    def fresh_text(self) -> TextTower:
        """Another one, to be changed."""
        if TEXT not in self.spec.streams:
            raise Skipped(f"'{self.spec.name}' reads no text.")
        tower = self.built(self.member, **self.random).tower(TEXT, self.spec.config(**self.random), 1)
        assert isinstance(tower, TextTower), f"{self.where(TEXT)}: its tower is a {type(tower).__name__}, no TextTower."
        return tower

    def built(self, name: str, **settings: Any) -> Backbone:
        """What ``build`` of the spec makes of a name.

        Raises:
            AVCoreError: whatever it refuses.
        """
        made: Backbone = self.spec.load()(self.spec.config(**settings), name=name, preset=self.spec.presets.get(name))
        return made


def random_weights(spec: BackboneSpec) -> dict[str, str]:
    """The setting that asks for random weights, where the family has it."""
    named = {entry.name for entry in dataclasses.fields(spec.config)}
    return {"weights": "random"} if "weights" in named else {}
