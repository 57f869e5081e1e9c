"""``dgsct.fewshot`` and ``dgsct.context``: words behind adapters, contrastive terms, and a learnt context of sentences.

Shape letters: B clips, T segments, C classes, K sentences, N tokens, D width of a shared space.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Batch, Features, Progress, Prompt, StreamLayout, Task
from avcore.injection import StreamView
from avcore.modules import at_least_single
from avcore_dgsct.settings import ContextSettings, FewShotHeadSettings
from avcore_fewshot.head import ComparingHead
from avcore_fewshot.words import joined, scaled_cosine

__all__ = ["Adapter", "Context", "FewShotHead", "balanced", "contrastive"]


class Context(Prompt):
    """CoOp's context (arXiv:2109.01134) on words that a sentence has anyway: what is learnt is added to them.

    The class stands behind it, which CoOp calls its end. Zero at first, so that training starts at the sentence itself.
    """

    def __init__(self, config: ContextSettings, stream: StreamLayout) -> None:
        super().__init__(config, stream)
        tokens = stream.stages[0].tokens
        if config.lead + config.length > tokens:
            raise AssemblyError(
                f"parts.dgsct.context.length={config.length}: there are {tokens} tokens, {config.lead} of them before "
                "the first word. Choose fewer."
            )
        self.lead = config.lead
        self.vectors = nn.Parameter(torch.zeros(config.length, stream.stages[0].width))

    def after_embedding(self, x_MND: Tensor, at: StreamView) -> Tensor:
        """The vectors at the first words, (N, D), zero elsewhere."""
        return F.pad(self.vectors, (0, 0, self.lead, x_MND.shape[1] - self.lead - len(self.vectors)))


class Adapter(nn.Module):
    """CLIP-Adapter (arXiv:2110.04544): ratio * ReLU(W2 ReLU(W1 x)) + (1 - ratio) * x, without biases.

    Args:
        width: D.
        reduction: W1 maps to D / reduction.
        ratio: of what the maps make.
    """

    def __init__(self, width: int, reduction: int, ratio: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, max(1, width // reduction), bias=False)
        self.up = nn.Linear(max(1, width // reduction), width, bias=False)
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (..., D) to such."""
        return self.ratio * F.relu(self.up(F.relu(self.down(x)))) + (1 - self.ratio) * x


class FewShotHead(ComparingHead):
    """Scaled cosines of both streams with their words, joined; pictures and their words pass an adapter each.

    Output:
        ``visual``, ``audio`` and ``logits``, (B, T, C); ``visual_clip`` and ``audio_clip``, (B, D) of length 1: the
        means over the segments of adapted pictures and of mapped sound, which the contrastive terms compare.

    Raises:
        AssemblyError: a stream is off, or lies in no common space with its sentences, or the two spaces are not
            equally wide.
    """

    def __init__(self, config: FewShotHeadSettings, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        if not {"visual", "audio"} <= set(layouts):
            raise AssemblyError("Head 'dgsct.fewshot' needs both streams; leave --streams out.")
        super().__init__(config, layouts, task, background=config.background)
        visual, audio = layouts["visual"].shared, layouts["audio"].shared
        if visual is None or visual != audio:
            raise AssemblyError(
                f"Head 'dgsct.fewshot' compares pictures with sound, whose spaces have {visual} and {audio} numbers: "
                "choose backbones whose spaces are equally wide."
            )
        self.config = config
        self.visual_adapter = Adapter(visual, config.reduction, config.ratio)
        self.text_adapter = Adapter(visual, config.reduction, config.ratio)
        self.audio_map = nn.Linear(visual, visual)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Features with the pooled vectors of both streams."""
        pictures_BTD = self.visual_adapter(_unit(features.project("visual")))
        words_CD = F.normalize(at_least_single(self.text_adapter(self.words.vectors(features, "visual"))), dim=-1)
        visual = scaled_cosine(pictures_BTD, words_CD, self.scales["visual"])
        audio = self.similar(features, "audio")
        return {
            "visual": visual,
            "audio": audio,
            "logits": joined(self.config.join, [visual, audio]),
            "visual_clip": _unit(pictures_BTD.mean(1)),
            "audio_clip": _unit(self.audio_map(_unit(features.project("audio"))).mean(1)),
        }

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``class``, ``audio_to_visual`` and ``visual_to_audio``, weighted as the settings and the epoch say."""
        config, epoch = self.config, progress.epoch + 1
        pair = contrastive(output["audio_clip"], output["visual_clip"], batch.valid, self.scales["visual"])
        terms = [self.cross_entropy(output, batch), *pair]
        if config.balance == "losses":
            terms = balanced(terms, epoch)
        else:
            first = config.first_weight if epoch <= config.first_epochs else config.weight
            weights = (first, config.audio_to_visual, config.visual_to_audio)
            terms = [weight * term for weight, term in zip(weights, terms, strict=True)]
        return dict(zip(("class", "audio_to_visual", "visual_to_audio"), terms, strict=True))


def contrastive(audio_BD: Tensor, visual_BD: Tensor, valid_B: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Which pictures belong to a sound, and which sound to pictures: cross-entropies over the clips of the batch.

    Args:
        audio_BD, visual_BD: of length 1.
        valid_B: clips that count, as answers too.
        scale: of the cosines.

    Returns:
        From sound to pictures, and back; means over the clips that count, 0 where there is none.
    """
    cosines_BB = scale * at_least_single(audio_BD) @ at_least_single(visual_BD).mT
    here_B = torch.arange(len(cosines_BB), device=cosines_BB.device)
    found = []
    for logits_BB in (cosines_BB, cosines_BB.mT):
        # A large number in place of infinity: rows of clips that do not count have no answer at all.
        each_B = F.cross_entropy(logits_BB.masked_fill(~valid_B, -1e4), here_B, reduction="none")
        found.append((each_B * valid_B).sum() / valid_B.sum().clamp(min=1))
    return found[0], found[1]


def balanced(terms: Sequence[Tensor], epoch: int) -> list[Tensor]:
    """Each term L times L / (epoch + sum of all) + 1 / epoch, the weights without gradient; epochs count from 1."""
    total = torch.stack([term.detach() for term in terms]).sum()
    return [(term.detach() / (epoch + total) + 1 / epoch) * term for term in terms]


def _unit(x: Tensor) -> Tensor:
    return F.normalize(at_least_single(x), dim=-1)
