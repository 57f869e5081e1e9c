"""A small text tower that needs torch alone, for testing what reads sentences without any other plugin.

``toy_text`` is a transformer with a token for each id, pooled where a sentence ends; it projects into a space of 12
numbers. Its weights are random. Shape letters: K sentences, L ids of each, D width.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avcore.backbones import Backbone, TextTower, Tower
from avcore.errors import AVCoreError, ConfigError
from avcore.hookspecs import hookimpl
from avcore.registry import Registry
from avcore.specs import TEXT, BackboneSpec, StageLayout, StreamLayout, TextGeometry, Windows
from avcore.testing.backbones import Inner, ToyBlock

__all__ = ["ToyText", "ToyTextSettings", "ToyTextTower", "ToyTexts", "tokenize", "toy_text_for"]

WIDTH, HEADS, DEPTH, SHARED = 16, 2, 3, 12
BEGIN, END, VOCABULARY, LONGEST = 1, 63, 64, 32


@dataclass(frozen=True, kw_only=True)
class ToyTextSettings:
    """How the text stream uses the toy."""

    weights: str = "random"  # there are no others
    length: int = 8  # ids of a sentence

    def __post_init__(self) -> None:
        if self.weights != "random":
            raise ValueError(f"weights must be random, not {self.weights!r}")
        if not 3 <= self.length <= LONGEST:
            raise ValueError(f"length must be 3 to {LONGEST}, not {self.length}")


class ToyTexts:
    """A plugin that offers the family ``toy-text`` with ``toy_text``."""

    @hookimpl
    def avcore_backbones(self) -> Iterable[BackboneSpec]:
        """The one toy."""
        return [
            BackboneSpec(
                name="toy-text",
                build=f"{__name__}:build",
                config=ToyTextSettings,
                summary="a small text tower on random weights",
                presets={"toy_text": {}},
                streams=(TEXT,),
            )
        ]


def toy_text_for(registry: Registry, head: str, sets: Sequence[str]) -> str | None:
    """The toy for a head that reads sentences, unless settings name another encoder; None for any other head."""
    if head not in registry.heads or any(text.startswith("text.backbone=") for text in sets):
        return None
    spec = registry.heads[head]
    return "toy_text" if TEXT in spec.calls(spec.config()) else None


def build(settings: ToyTextSettings, *, name: str, preset: Mapping[str, Any] | None) -> "ToyText":
    """Make the toy."""
    if preset is None:
        raise ConfigError(f"There is no toy '{name}': use toy_text.")
    return ToyText(name)


def tokenize(sentences: Sequence[str], length: int = 8) -> Tensor:
    """Sentences to ids (K, length) on the CPU: 1, an id a word, 63, then zeros; the end of longer ones is cut."""
    made = torch.zeros(len(sentences), length, dtype=torch.int64, device="cpu")
    for number, sentence in enumerate(sentences):
        words = [zlib.crc32(word.encode()) % (END - 2) + 2 for word in sentence.lower().split()]
        ids = [BEGIN, *words[: length - 2], END]
        made[number, : len(ids)] = torch.tensor(ids, device="cpu")
    return made


class ToyText(Backbone):
    """Frozen random weights."""

    block_class: ClassVar[type[ToyBlock]] = ToyBlock

    def __init__(self, name: str) -> None:
        super().__init__()
        self.notices = (f"'{name}' runs on random weights.",)
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions_LD = nn.Parameter(torch.randn(LONGEST, WIDTH) * 0.5)
        self.blocks = nn.ModuleList(self.block_class(Inner(WIDTH, HEADS, biased=False)) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, SHARED, bias=False)
        self.freeze()

    def tower(self, stream: str, settings: ToyTextSettings, segments: int, windows: Windows | None = None) -> Tower:
        """See `Backbone.tower`."""
        if stream != TEXT:
            raise AVCoreError(f"The toy reads {TEXT} only, not {stream}.")
        return ToyTextTower(self, settings, segments).freeze()


class ToyTextTower(TextTower):
    """Sentences through the toy."""

    def __init__(self, trunk: ToyText, settings: ToyTextSettings, segments: int) -> None:
        super().__init__()
        self.trunk = trunk
        stage = StageLayout(width=WIDTH, heads=HEADS, depth=DEPTH, grid=(1, settings.length), mlp=(2 * WIDTH,) * 2)
        taps = tuple(range(DEPTH))
        self.layout = StreamLayout(stages=(stage,), segments=segments, taps=taps, pool="end", shared=SHARED)
        self.geometry = TextGeometry(
            length=settings.length, vocabulary=VOCABULARY, tokenizer=f"{__name__}:{tokenize.__name__}"
        )

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """The final norm."""
        return {"norm": self.trunk.norm}

    def embed(self, ids_KL: Tensor) -> Tensor:
        """See `TextTower.embed`."""
        made: Tensor = self.trunk.words(ids_KL) + self.trunk.positions_LD[: ids_KL.shape[1]]
        return made

    def enter(self, x_MND: Tensor) -> Tensor:
        """Nothing lies between the embedding and the first block."""
        return x_MND

    def block(self, index: int) -> ToyBlock:
        """See `Tower.block`."""
        found: Any = self.trunk.blocks[index]
        made: ToyBlock = found
        return made

    def norm(self, x_MND: Tensor) -> Tensor:
        """See `Tower.norm`."""
        made: Tensor = self.trunk.norm(x_MND)
        return made

    def pool(self, tokens_MND: Tensor, ids_KL: Tensor | None = None) -> Tensor:
        """The token of the id that ends a sentence, the largest."""
        if ids_KL is None:
            raise ValueError("The end of a sentence is where its ids say: pool(tokens, ids).")
        return tokens_MND[torch.arange(len(tokens_MND), device=tokens_MND.device), ids_KL.argmax(1)]

    def project(self, pooled_MD: Tensor) -> Tensor:
        """See `Tower.project`."""
        made: Tensor = self.trunk.projection(pooled_MD)
        return made
