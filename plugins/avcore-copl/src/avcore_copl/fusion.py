"""``copl.coupling``: the modality-interaction prompts of CoPL (Zhao et al., ACM MM 2024, sections 3.3 and 3.4).

Shape letters: M = B*T, N tokens, D width, b latent tokens (= L_I), q prompts of a bank.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore import AssemblyError, Edit, Edits, Features, Fusion, FusionLayer
from avcore.injection import PairLayout, PairView
from avcore.specs import StreamLayout
from avcore_copl.prompts import row_bias
from avcore_copl.settings import CouplingSettings

__all__ = ["Coupling", "CouplingLayer", "Mapping"]


class Coupling(Fusion):
    """Interaction rows I in the last layers (eq. 4), and the consistency loss (eq. 10)."""

    def __init__(self, config: CouplingSettings, visual: StreamLayout, audio: StreamLayout) -> None:
        super().__init__(config, visual, audio)
        self.config = config
        self.bank: Bank | None = None
        if config.bank_length and config.bank_scope == "all":
            self.bank = Bank(config, visual.width, audio.width)

    def layer(self, pair: PairLayout) -> "CouplingLayer | None":
        """A layer at the last ``last`` pairs, or at the pairs of the last ``last`` stages."""
        units = pair.pairs if self.config.unit == "blocks" else pair.visual.stages
        if self.config.last > units:
            raise AssemblyError(
                f"parts.copl.coupling.last={self.config.last}, but there are {units} {self.config.unit}."
            )
        first_stage = pair.visual.stages - self.config.last
        inside = pair.from_end <= self.config.last if self.config.unit == "blocks" else pair.visual.stage >= first_stage
        if not inside:
            return None
        if self.bank is not None and self.bank.widths != (pair.visual.width, pair.audio.width):
            raise AssemblyError(
                "parts.copl.coupling.bank_scope=all spans blocks of different widths here: use bank_scope=layer."
            )
        return CouplingLayer(self.config, pair)

    def losses(self, features: Features) -> dict[str, Tensor]:
        """lambda * MSE of what leaves both streams, eq. 10 and 11; the mean over the clips that are valid."""
        compared = self._compared(features)
        if not self.config.consistency_weight or compared is None:
            return {}
        each_B = F.mse_loss(*compared, reduction="none").unflatten(0, (features.clips, -1)).flatten(1).mean(1)
        valid_B = features.valid.to(each_B.dtype)
        mean = (each_B * valid_B).sum() / valid_B.sum().clamp(min=1)
        return {"consistency": self.config.consistency_weight * mean}

    def _compared(self, features: Features) -> tuple[Tensor, Tensor] | None:
        visual, audio = features.stream("visual"), features.stream("audio")
        equal_widths = visual.tokens.shape[-1] == audio.tokens.shape[-1]
        how = self.config.consistency
        if how == "auto" and not equal_widths:
            return None
        if not equal_widths:
            raise AssemblyError(
                f"parts.copl.coupling.consistency={how} compares vectors of {visual.tokens.shape[-1]} with "
                f"{audio.tokens.shape[-1]} components: use auto, which leaves the loss out when widths differ."
            )
        equal_counts = visual.tokens.shape[1] == audio.tokens.shape[1]
        if how == "tokens" and not equal_counts:
            raise AssemblyError(
                f"parts.copl.coupling.consistency=tokens compares {visual.tokens.shape[1]} with "
                f"{audio.tokens.shape[1]} tokens: use auto, pooled or mean."
            )
        if how == "auto":
            how = "tokens" if equal_counts else "pooled"
        if how == "tokens":
            return visual.tokens, audio.tokens
        if how == "mean":
            return visual.tokens.mean(1), audio.tokens.mean(1)
        return visual.pooled, audio.pooled


class Bank(nn.Module):
    """q learned prompts for each modality, or for both at once."""

    def __init__(self, config: CouplingSettings, visual_width: int, audio_width: int) -> None:
        super().__init__()
        self.widths = (visual_width, audio_width)
        self.visual = _normal(config.bank_length, visual_width, config.std)
        common = config.bank_sharing == "common"
        self.audio = self.visual if common else _normal(config.bank_length, audio_width, config.std)


class Mapping(nn.Sequential):
    """F of eq. 8: Linear, ReLU, Linear through a bottleneck."""

    def __init__(self, width_in: int, hidden: int, width_out: int, *, zero: bool) -> None:
        last = nn.Linear(hidden, width_out)
        super().__init__(nn.Linear(width_in, hidden), nn.ReLU(), last)
        if zero:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


class CouplingLayer(FusionLayer):
    """Prompt-bank mutual coupling at one pair of blocks."""

    made_again: ClassVar[bool] = False

    def __init__(self, config: CouplingSettings, pair: PairLayout) -> None:
        super().__init__()
        width_v, width_a = pair.visual.width, pair.audio.width
        latents = config.length if config.latents is None else config.latents
        hidden = min(width_v, width_a) // config.reduction
        self.latent_visual = _normal(latents, width_v, config.std)
        self.latent_audio = _normal(latents, width_a, config.std)
        own_bank = config.bank_length and config.bank_scope == "layer"
        self.bank = Bank(config, width_v, width_a) if own_bank else None
        self.visual_to_audio = Mapping(width_v, hidden, width_a, zero=config.zero_mapping)
        self.audio_to_visual = Mapping(width_a, hidden, width_v, zero=config.zero_mapping)
        self.visual_bias, self.audio_bias = row_bias(config), row_bias(config)

    def attention(self, visual_MND: Tensor, audio_MND: Tensor, at: PairView) -> Edits:
        """I_v = [P_v ; F(P_a)], I_a = [P_a ; F(P_v)], eq. 9, as rows of the frozen attention."""
        bank: Bank | None = at.part.bank if self.bank is None else self.bank
        prompts: Sequence[Tensor] = (self.latent_visual, self.latent_audio)
        if bank is not None:
            given = ((visual_MND, self.latent_visual), (audio_MND, self.latent_audio))
            prompts = [summarised(x_MND, latent_bD) for x_MND, latent_bD in given]
            prompts = at_once(drawn, prompts, [bank.visual, bank.audio])
        maps = (self.visual_to_audio, self.audio_to_visual)
        mapped = at_once(through, prompts, *zip(*(mapping.parameters() for mapping in maps), strict=True))
        (prompts_v, prompts_a), (for_a, for_v) = prompts, mapped
        return Edits(
            visual=Edit(rows=(prompts_v, for_v), row_bias=self.visual_bias),
            audio=Edit(rows=(prompts_a, for_a), row_bias=self.audio_bias),
        )


def summarised(x_MND: Tensor, latent_bD: Tensor) -> Tensor:
    """What latent tokens find in a sample, eq. 5: Z' = L + softmax(L x^T) x.

    Args:
        x_MND: real tokens that enter the block.
        latent_bD: L_m.

    Returns:
        (M, b, D).
    """
    latent_MbD = latent_bD.to(x_MND.dtype).expand(len(x_MND), -1, -1)
    return torch.baddbmm(latent_MbD, torch.softmax(torch.bmm(latent_MbD, x_MND.mT), dim=-1), x_MND)


def drawn(summary_SMbD: Tensor, bank_SqD: Tensor) -> Tensor:
    """Prompts that resemble the sample, from the bank. Eq. 6: e = softmax of Z' P^T over the bank. Eq. 7: P_m = e P.

    Args:
        summary_SMbD: Z' of S streams.
        bank_SqD: their banks.

    Returns:
        P_m, (S, M, b, D).
    """
    bank_SqD = bank_SqD.to(summary_SMbD.dtype)
    scores_SKq = torch.softmax(summary_SMbD.flatten(1, 2) @ bank_SqD.mT, dim=-1)
    return (scores_SKq @ bank_SqD).view_as(summary_SMbD)


def through(x: Tensor, first: Tensor, first_bias: Tensor, last: Tensor, last_bias: Tensor) -> Tensor:
    """`Mapping` of S streams at once: x (S, ..., D) through its parameters, stacked."""
    hidden = torch.relu(torch.baddbmm(first_bias[:, None], x.flatten(1, -2), first.mT))
    return torch.baddbmm(last_bias[:, None], hidden, last.mT).view(*x.shape[:-1], -1)


def at_once(function: Callable[..., Tensor], *columns: Sequence[Tensor]) -> Sequence[Tensor]:
    """A function of what both streams have, stacked; of each by itself where widths differ."""
    if all(one.shape == column[0].shape for column in columns for one in column):
        return function(*(torch.stack(tuple(column)) for column in columns)).unbind()
    return [function(*(one[None] for one in own))[0] for own in zip(*columns, strict=True)]


def _normal(count: int, width: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width) * std)
