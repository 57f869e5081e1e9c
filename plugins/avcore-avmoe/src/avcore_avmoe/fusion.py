"""``avmoe``: mixtures of experts beside attention and MLP of both streams (Cheng et al., NeurIPS 2024).

Shape letters: B clips, T segments, M = B*T, N tokens, D width, E experts.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from avcore import Edit, Edits, Features, Fusion, FusionLayer, StreamLayout
from avcore.injection import PairLayout, PairView
from avcore_avmoe.experts import Mixed, Mixture
from avcore_avmoe.settings import AVMoESettings

__all__ = ["AVMoE", "AVMoELayer", "MixturePair", "balance_loss"]


class AVMoE(Fusion):
    """Two pairs of mixtures at every pair of blocks whose stage is not skipped; sound is pooled before its norm."""

    def __init__(self, config: AVMoESettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config, self.audio = config, audio

    def layer(self, pair: PairLayout) -> FusionLayer | None:
        """The mixtures of one pair of blocks."""
        skipped = self.config.skip > 0 and (pair.visual.stage + 1) % self.config.skip == 0
        return None if skipped else AVMoELayer(self.config, pair)

    def finish(self, features: Features) -> Features:
        """Pool sound as its stream is pooled, before the final norm."""
        if self.config.pool == "none":
            return features
        audio = features.stream("audio")
        raw_MND = audio.raw_tokens
        pooled_MD = raw_MND[:, 0] if self.audio.pool == "class" else raw_MND.mean(1)
        pooled_BTD = pooled_MD.unflatten(0, (features.clips, features.segments))
        return features.with_streams(audio=replace(audio, pooled=pooled_BTD))

    def losses(self, features: Features) -> dict[str, Tensor]:
        """The balance of all mixtures, weighted."""
        made = features.sums.get("avmoe.balance")
        return {} if made is None else {"balance": self.config.balance * made}


class AVMoELayer(FusionLayer):
    """Two pairs of mixtures: ``p1`` beside the frozen attention, ``p2`` beside the frozen MLP."""

    def __init__(self, config: AVMoESettings, pair: PairLayout) -> None:
        super().__init__()
        self.p1 = MixturePair(config, pair)
        self.p2 = MixturePair(config, pair)

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """x <- x + A(x) + sum of pi_e expert_e(x, y); in an atomic audio block, beside the whole block."""
        return self.p1(visual_MND, audio_MND)  # type: ignore[no-any-return]

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """x <- x + M(x) + sum of pi_e expert_e(x, y); after an atomic audio block."""
        return self.p2(visual_MND, audio_MND)  # type: ignore[no-any-return]


class MixturePair(nn.Module):
    """A mixture for each stream; both read the tokens that enter the sub-layer."""

    def __init__(self, config: AVMoESettings, pair: PairLayout) -> None:
        super().__init__()
        self.visual = Mixture(config, pair.visual, pair.audio, gated=True)
        self.audio = Mixture(config, pair.audio, pair.visual, gated=config.audio_gate)
        self.balanced, self.per_expert = config.balance > 0, config.uniform == "experts"

    def forward(self, visual_MND: Tensor, audio_MND: Tensor) -> Edits:
        """The increments of both streams."""
        visual, audio = self.visual(visual_MND, audio_MND), self.audio(audio_MND, visual_MND)
        return Edits(visual=self._told("visual", visual), audio=self._told("audio", audio))

    def _told(self, stream: str, made: Mixed) -> Edit:
        if made.weights is None:
            return Edit(add=made.add)
        sums = {"balance": balance_loss(made.weights, per_expert=self.per_expert)} if self.balanced else {}
        shares: Mapping[str, Tensor] = {
            f"{stream}_expert_{number}": share for number, share in enumerate(made.weights.detach().mean(0))
        }
        return Edit(add=made.add, sums=sums, statistics=shares)


def balance_loss(weights_ME: Tensor, *, per_expert: bool = True) -> Tensor:
    """KL(uniform || mean pi) of one mixture, a scalar: zero where all experts weigh the same over the batch.

    Args:
        weights_ME: pi of each segment.
        per_expert: compare with 1 / E; else with 1, as the published code has it: -sum of log(mean pi).
    """
    mean_E = weights_ME.mean(0)
    uniform_E = torch.full_like(mean_E, 1 / mean_E.numel() if per_expert else 1.0)
    return (uniform_E * (uniform_E.log() - mean_E.log())).sum()
