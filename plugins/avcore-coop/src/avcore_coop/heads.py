"""Heads that compare segments with the names of classes: CLIP's own way, CLIP-Adapter (Gao et al., arXiv:2110.04544),
CoCoOp (Zhou et al., arXiv:2203.05557).

Shape letters: B clips, T segments, M = B*T, C classes, K sentences, L ids, W width of words, S width of the common
space.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.modules import at_least_single
from avcore.specs import TEXT, TEXTS, StreamLayout, resolve
from avcore.tasks import Features, Task
from avcore_avar.heads import ClipHead
from avcore_coop.sentences import read
from avcore_coop.settings import AdapterSettings, ConditionalSettings, WordsSettings

__all__ = ["AdapterHead", "ConditionalHead", "WordsHead"]

SOUNDS = TEXTS[1]
"""The encoder of sentences for what is compared with sound."""


class WordsHead(ClipHead):
    """Scaled cosines of each segment with the names of the classes, added up over the streams, their mean over a clip.

    Sound has words of its own where the run has a second encoder of sentences, ``text_audio``. The head trains nothing
    by itself, but the maps of streams that share no space with their words. A part that offers ``words`` on a stream,
    as MaPLe does, writes its prompts into the sentences of that stream.

    Output:
        ``logits`` (B, C).

    Raises:
        AssemblyError: a tower shares no space with its words, or the task has no classes.
    """

    def __init__(self, config: WordsSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        clips = {name: layout for name, layout in layouts.items() if name not in TEXTS}
        super().__init__(config, clips, task, first="visual")
        if not task.classes:
            raise AssemblyError("The task has no classes, whose names this head reads.")
        self.config = config
        self.encoder = dict.fromkeys(self.streams, TEXT)
        if SOUNDS in layouts and "audio" in clips:
            self.encoder["audio"] = SOUNDS
        self.asked = {name: stream for stream, name in self.encoder.items() if self._meets(stream, name)}
        for name in self.encoder.values():
            self.asked.setdefault(name, self.streams[0])
        self.texts = {name: layouts[name] for name in self.asked}
        for name, layout in self.texts.items():
            if layout.shared is None:
                raise AssemblyError(
                    f"The encoder of sentences ({name}) shares no space with others: choose CLIP's or CLAP's."
                )
        templates = {TEXT: config.template, SOUNDS: config.sound_template}
        names = [name.replace("_", " ") for name in task.classes]
        self.sentences = {name: [templates[name].format(one) for one in names] for name in self.texts}
        self.projected = tuple(name for name in self.streams if clips[name].shared is not None)
        self.maps = nn.ModuleDict()
        for name in self.streams:
            encoder, width = self.encoder[name], self.shared(self.encoder[name])
            if self._meets(name, encoder) and clips[name].shared == width:
                continue
            if not config.map_other:
                raise AssemblyError(
                    f"The {name} tower shares no space of {width} with the words ({encoder}): choose one that does "
                    "(CLIP with --set visual.projection=true; CLAP with words of its own, --text-audio), leave the "
                    "stream out (--streams), or train a map with --set head.map_other=true."
                )
            self.maps[name] = nn.Linear(clips[name].shared or clips[name].width, width)
        self._ids: dict[str, Tensor] = {}

    def _meets(self, stream: str, encoder: str) -> bool:
        """Whether the words of an encoder are meant to lie in the space of a stream's tower."""
        return stream == ("audio" if encoder == SOUNDS else self.config.space)

    def shared(self, encoder: str) -> int:
        """S of an encoder of sentences."""
        width = self.texts[encoder].shared
        assert width is not None
        return width

    def forward(self, features: Features) -> dict[str, Tensor]:
        """See the class."""
        seen = {name: self.seen(features, name) for name in self.streams}
        words = {
            name: F.normalize(self.words(name, features, seen[stream]), dim=-1) for name, stream in self.asked.items()
        }
        each = [_cosines(x_BTS, words[self.encoder[name]]) for name, x_BTS in seen.items()]
        return {"logits": (torch.stack(each).sum(0) * self.config.scale).mean(1)}

    def seen(self, features: Features, name: str) -> Tensor:
        """The segments of a stream among its words: (B, T, S), in float32 at least."""
        x_BTD = features.project(name) if name in self.projected else features.stream(name).pooled
        mapped: Tensor = self.maps[name](x_BTD) if name in self.maps else x_BTD
        return at_least_single(mapped)

    def words(self, name: str, features: Features, seen_BTS: Tensor) -> Tensor:
        """The classes: (C, S), or (B, T, C, S) where they depend on the segments.

        Args:
            name: of the encoder.
            features: that hold it.
            seen_BTS: the segments of the stream whose space it is.
        """
        text, ids_CL = features.encoders[name], self.ids(name, features)
        offered = [made for key, made in features.offers.items() if key.endswith(f".{self.asked[name]}.words")]
        if not offered:
            return at_least_single(text.project(text(ids_CL, keep=True).pooled))
        if len(offered) > 1:
            raise AssemblyError("Two parts write their prompts into the sentences: leave one out.")
        first, *deep = offered[0]
        width = self.texts[name].width
        if first.shape[-1] != width:
            raise AssemblyError(
                f"The prompts of words are {first.shape[-1]} wide, and the encoder of sentences {width}: set "
                f"parts.maple.words_width={width}."
            )
        return at_least_single(read(text.tower, ids_CL, first, deep))

    def ids(self, name: str, features: Features) -> Tensor:
        """The sentences of the classes as ids (C, L), made once for a device."""
        device = features.stream(self.streams[0]).pooled.device
        if name not in self._ids or self._ids[name].device != device:
            geometry: Any = features.encoders[name].tower.geometry
            self._ids[name] = resolve(geometry.tokenizer)(self.sentences[name], length=geometry.length).to(device)
        return self._ids[name]


class AdapterHead(WordsHead):
    """The same behind a bottleneck x <- r A(x) + (1 - r) x with A = ReLU W2 ReLU W1 for each stream, and for the words.

    131,072 parameters for a stream at S = 512 and a reduction of 4.
    """

    def __init__(self, config: AdapterSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.ratio = config.ratio
        widths = {name: self.shared(encoder) for name, encoder in self.encoder.items()}
        widths |= {name: self.shared(name) for name in self.texts} if config.words else {}
        self.adapters = nn.ModuleDict(
            {name: _bottleneck(width, max(1, width // config.reduction)) for name, width in widths.items()}
        )

    def seen(self, features: Features, name: str) -> Tensor:
        """See `WordsHead.seen`."""
        return self._adapted(name, super().seen(features, name))

    def words(self, name: str, features: Features, seen_BTS: Tensor) -> Tensor:
        """See `WordsHead.words`."""
        return self._adapted(name, super().words(name, features, seen_BTS))

    def _adapted(self, name: str, x: Tensor) -> Tensor:
        if name not in self.adapters:
            return x
        made: Tensor = self.adapters[name](x)
        return self.ratio * made + (1 - self.ratio) * x


class ConditionalHead(WordsHead):
    """The same with a context v + h(x) in the place of the first words, x the segment in the common space, of length 1.

    h is Linear, ReLU, Linear. Every segment has sentences of its own: B T C of them in each step. 35,360 parameters for
    an encoder at S = W = 512, four vectors and a reduction of 16. The context starts at the words themselves.
    """

    def __init__(self, config: ConditionalSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.vectors, self.shift = nn.ParameterDict(), nn.ModuleDict()
        for name, layout in self.texts.items():
            width, hidden = self.shared(name), max(1, self.shared(name) // config.reduction)
            self.vectors[name] = nn.Parameter(torch.zeros(config.tokens, layout.width))
            self.shift[name] = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, layout.width))

    def words(self, name: str, features: Features, seen_BTS: Tensor) -> Tensor:
        """See `WordsHead.words`."""
        ids_CL = self.ids(name, features)
        shift_BTW: Tensor = self.shift[name](F.normalize(seen_BTS, dim=-1))
        context_MnW = self.vectors[name] + shift_BTW.flatten(0, 1)[:, None]
        ids_KL, classes = ids_CL.repeat(len(context_MnW), 1), len(ids_CL)
        made_KS = read(features.encoders[name].tower, ids_KL, context_MnW.repeat_interleave(classes, dim=0))
        made: Tensor = at_least_single(made_KS).unflatten(0, (*seen_BTS.shape[:2], classes))
        return made


def _bottleneck(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False), nn.ReLU()
    )


def _cosines(x_BTS: Tensor, words: Tensor) -> Tensor:
    """With words of length 1, (C, S) or (B, T, C, S), to (B, T, C)."""
    out: Tensor = torch.einsum(
        "bts,btcs->btc" if words.dim() == 4 else "bts,cs->btc", F.normalize(x_BTS, dim=-1), words
    )
    return out
