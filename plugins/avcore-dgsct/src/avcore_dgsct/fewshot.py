"""``dgsct.fewshot``: words behind adapters, and contrastive terms.

Shape letters: B clips, T segments, C classes, D width of a shared space.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Batch, Features, Progress, StreamLayout, Task
from avcore.modules import at_least_single
from avcore_dgsct.settings import FewShotHeadSettings
from avcore_fewshot.head import ComparingHead
from avcore_fewshot.learnt import Adapter
from avcore_fewshot.words import joined, scaled_cosine

__all__ = ["FewShotHead", "balanced", "contrastive"]


class FewShotHead(ComparingHead):
    """Scaled cosines of both streams with their words, joined; pictures and their words pass an adapter each.

    Output:
        ``visual``, ``audio`` and ``logits``, (B, T, C); ``visual_clip`` and ``audio_clip``, (B, D) of length 1: the
        means over the segments of pictures, without their adapter, and of mapped sound, which the contrastive terms
        compare.

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
        seen_BTD, heard_BTD = features.project("visual"), features.project("audio")
        pictures_BTD = self.visual_adapter(_unit(seen_BTD))
        words_CD = F.normalize(at_least_single(self.text_adapter(self.words.vectors(features, "visual"))), dim=-1)
        visual = scaled_cosine(pictures_BTD, words_CD, self.scales["visual"])
        audio = self.similar(features, "audio")
        return {
            "visual": visual,
            "audio": audio,
            "logits": joined(self.config.join, [visual, audio]),
            "visual_clip": _unit(seen_BTD.mean(1)),
            "audio_clip": _unit(self.audio_map(heard_BTD).mean(1)),
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
    """Each term L times L / (epoch + sum of all) + 1 / epoch; epochs count from 1. The weights have gradients too."""
    total = torch.stack([*terms]).sum()
    return [(term / (epoch + total) + 1 / epoch) * term for term in terms]


def _unit(x: Tensor) -> Tensor:
    return F.normalize(at_least_single(x), dim=-1)
