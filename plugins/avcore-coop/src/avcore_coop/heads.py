"""Heads that compare segments with words that are learnt: MaPLe's side of the sentences (Khattak et al.,
arXiv:2210.03117), CLIP-Adapter (Gao et al., arXiv:2110.04544), CoCoOp (Zhou et al., arXiv:2203.05557).

Shape letters: B clips, T segments, C classes, K sentences, L ids, W width of words, S width of a common space, n
prompts.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.errors import AssemblyError
from avcore.modules import at_least_single
from avcore.specs import StreamLayout
from avcore.tasks import Features, Task
from avcore_coop.sentences import read
from avcore_coop.settings import AdapterSettings, ConditionalSettings
from avcore_fewshot.config import WordsHeadConfig
from avcore_fewshot.head import WordsHead
from avcore_fewshot.learnt import Adapter
from avcore_fewshot.words import scaled_cosine

__all__ = ["AdapterHead", "ConditionalHead", "PromptedHead"]


class PromptedHead(WordsHead):
    """`WordsHead` with the prompts in its sentences that a part offers as ``words`` on their stream, as MaPLe does.

    Raises:
        AssemblyError: two parts do, or the prompts are not as wide as the words.
    """

    def __init__(self, config: WordsHeadConfig, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.widths = {stream: layouts[encoder].width for stream, encoder in self.words.streams.items()}
        self.shared = {stream: _shared(layouts[stream]) for stream in self.words.streams}

    def vectors(self, features: Features, stream: str) -> Tensor:
        """The classes, (C, S), of length 1."""
        offered = [made for key, made in features.offers.items() if key.endswith(f".{stream}.words")]
        if not offered:
            return self.words.vectors(features, stream)
        if len(offered) > 1:
            raise AssemblyError(f"Two parts write their prompts into the sentences of {stream}: leave one out.")
        first, *deep = offered[0]
        if first.shape[-1] != self.widths[stream]:
            raise AssemblyError(
                f"The prompts of words are {first.shape[-1]} wide, and the encoder of sentences {self.widths[stream]}: "
                f"set parts.maple.words_width={self.widths[stream]}."
            )
        return self.read(features, stream, first, deep)

    def read(self, features: Features, stream: str, context: Tensor, deep: list[Tensor]) -> Tensor:
        """The classes with these prompts in their sentences, (C, S) of length 1; of several templates the mean."""
        tower = features.encoders[self.words.streams[stream]].tower
        made_KS = read(tower, self.words.ids(features, stream), context, deep)
        return self.words.means(made_KS)

    def similar(self, features: Features, stream: str) -> Tensor:
        """See `ComparingHead.similar`."""
        return scaled_cosine(features.project(stream), self.vectors(features, stream), self.scales[stream])


class AdapterHead(PromptedHead):
    """The same behind a bottleneck x <- r A(x) + (1 - r) x with A = ReLU W2 ReLU W1 for each stream, and for its words.

    131,072 parameters for a stream at S = 512 and a reduction of 4.
    """

    def __init__(self, config: AdapterSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        of_words = self.shared if config.words else {}
        self.adapters, self.word_adapters = (
            nn.ModuleDict({name: Adapter(width, config.reduction, config.ratio) for name, width in widths.items()})
            for widths in (self.shared, of_words)
        )

    def similar(self, features: Features, stream: str) -> Tensor:
        """See `ComparingHead.similar`."""
        x_BTS, words_CS = self.adapters[stream](features.project(stream)), self.vectors(features, stream)
        if stream in self.word_adapters:
            words_CS = F.normalize(self.word_adapters[stream](words_CS), dim=-1)
        return scaled_cosine(x_BTS, words_CS, self.scales[stream])


class ConditionalHead(PromptedHead):
    """`WordsHead` with a context v + h(x) on the first words, x the segment in the common space, of length 1.

    h is Linear, ReLU, Linear. Every segment has sentences of its own: B T K of them in each step. 35,360 parameters for
    a stream at S = W = 512, four vectors and a reduction of 16. The context starts at the words themselves.
    """

    def __init__(self, config: ConditionalSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.vectors_nW, self.shift = nn.ParameterDict(), nn.ModuleDict()
        for name, shared in self.shared.items():
            hidden, width = max(1, shared // config.reduction), self.widths[name]
            self.vectors_nW[name] = nn.Parameter(torch.zeros(config.tokens, width))
            self.shift[name] = nn.Sequential(nn.Linear(shared, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def similar(self, features: Features, stream: str) -> Tensor:
        """See `ComparingHead.similar`."""
        x_BTS = F.normalize(at_least_single(features.project(stream)), dim=-1)
        words_BTCS = self.conditional(features, stream, x_BTS)
        return self.scales[stream] * torch.einsum("bts,btcs->btc", x_BTS, words_BTCS)

    def conditional(self, features: Features, stream: str, x_BTS: Tensor) -> Tensor:
        """The classes as each segment sees them, (B, T, C, S), of length 1."""
        shift_BTW: Tensor = self.shift[stream](x_BTS)
        context_MnW = self.vectors_nW[stream] + shift_BTW.flatten(0, 1)[:, None]
        ids_KL = self.words.ids(features, stream)
        context_KnW = context_MnW.repeat_interleave(len(ids_KL), dim=0)
        tower = features.encoders[self.words.streams[stream]].tower
        made_KS = read(tower, ids_KL.repeat(len(context_MnW), 1), context_KnW)
        return self.words.means(made_KS.unflatten(0, (*x_BTS.shape[:2], -1)))


def _shared(layout: StreamLayout) -> int:
    assert layout.shared is not None, "Words refuses streams that share no space."
    return layout.shared
