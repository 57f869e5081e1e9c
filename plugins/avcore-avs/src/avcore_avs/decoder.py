"""AVSBench's decoder: dilated convolutions, TPAVI, top-down fusion, prediction.

Zhou et al., ECCV 2022 (arXiv:2207.05042), as the published code has it.

Shape letters: B clips, T frames, M = B*T, C channels, N = T*Y*X positions of a clip, Y and X rows and columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avcore.modules import TokenBatchNorm
from avcore_avs.config import DECODER_STAGES

__all__ = ["TPAVI", "AVSDecoder", "DecoderOutput", "DilatedSum", "FusionBlock", "ResidualUnit"]

DILATIONS = (3, 6, 12, 18)


class DilatedSum(nn.Module):
    """The sum of four 3x3 convolutions with dilations 3, 6, 12 and 18, weights from N(0, 0.01)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS]
        for convolution in convolutions:
            nn.init.normal_(convolution.weight, std=0.01)
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x_MCYX: Tensor) -> Tensor:
        """(M, C, Y, X) to (M, width, Y, X)."""
        first, *others = self.convolutions
        total: Tensor = first(x_MCYX)
        for convolution in others:
            total = total + convolution(x_MCYX)
        return total


class TPAVI(nn.Module):
    """Temporal pixel-wise audio-visual interaction: a non-local block over all N positions of a clip (eqs. 1 and 2).

    z = LayerNorm(x + BatchNorm(W (theta(x) phi(a)^T / N) g(x))), where a is the audio vector of each frame at all its
    positions, or x itself without sound. There is no softmax, so the product is taken from the right:
    theta(x) (phi(a)^T g(x)) / N is linear in N, and the audio vector need not be repeated over the positions.

    The reference's 1x1x1 convolutions are linear maps over rows here, and its BatchNorm3d, with the statistics of all
    rows of the batch, is over tokens.
    """

    def __init__(self, width: int, audio_width: int | None) -> None:
        super().__init__()
        inner = width // 2
        self.align = None if audio_width is None else nn.Linear(audio_width, width)
        self.g = nn.Linear(width, inner)
        self.theta = nn.Linear(width, inner)
        self.phi = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)
        self.out_norm = TokenBatchNorm(width)
        nn.init.zeros_(self.out_norm.weight)
        nn.init.zeros_(self.out_norm.bias)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BTCYX: Tensor, audio_BTD: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Maps (B, T, C, Y, X) and audio vectors (B, T, D) to maps of that shape and aligned audio (B, T, C)."""
        clips, segments, width, rows, columns = x_BTCYX.shape
        x_BNC = x_BTCYX.permute(0, 1, 3, 4, 2).reshape(clips, -1, width)
        aligned_BTC = None if self.align is None or audio_BTD is None else self.align(audio_BTD)
        mixed_BNC = self.out(self.interact(x_BNC, aligned_BTC))
        z_BNC = self.norm(x_BNC + self.out_norm(mixed_BNC).to(x_BNC.dtype))
        z_BTCYX = z_BNC.view(clips, segments, rows, columns, width).permute(0, 1, 4, 2, 3)
        return z_BTCYX, aligned_BTC

    def interact(self, x_BNC: Tensor, aligned_BTC: Tensor | None) -> Tensor:
        """theta(x) (phi^T g(x)) / N, (B, N, C/2)."""
        positions = x_BNC.shape[1]
        g_BNC = self.g(x_BNC)
        if aligned_BTC is None:
            phi_BKC = self.phi(x_BNC)
        else:
            phi_BKC = self.phi(aligned_BTC)
            # phi is the same at every position of a frame, so g may be summed over them first.
            g_BNC = g_BNC.unflatten(1, (aligned_BTC.shape[1], -1)).sum(2)
        memory_BCC = phi_BKC.transpose(1, 2) @ g_BNC / positions
        interacted: Tensor = self.theta(x_BNC) @ memory_BCC
        return interacted


class ResidualUnit(nn.Module):
    """relu(x) + conv(relu(conv(relu(x)))).

    The skip carries relu(x), not x: the reference's first ReLU works in place.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_MCYX: Tensor) -> Tensor:
        """(M, C, Y, X) to the same shape."""
        x_MCYX = F.relu(x_MCYX)
        increment: Tensor = self.conv2(F.relu(self.conv1(x_MCYX)))
        return x_MCYX + increment


class FusionBlock(nn.Module):
    """One step of the top-down path: add the map of this stage, refine, double the size (RefineNet's block).

    The last stage has no coarser neighbour. There the reference allocates a unit for the lateral input that it never
    uses; ``lateral=False`` leaves it out.
    """

    def __init__(self, width: int, *, lateral: bool) -> None:
        super().__init__()
        self.lateral = ResidualUnit(width) if lateral else None
        self.refine = ResidualUnit(width)

    def forward(self, map_MCYX: Tensor, coarser_MCYX: Tensor | None) -> Tensor:
        """The map of this stage and the path so far, both (M, C, Y, X), to (M, C, 2Y, 2X)."""
        path = map_MCYX
        if self.lateral is not None and coarser_MCYX is not None:
            path = coarser_MCYX + self.lateral(map_MCYX)
        return F.interpolate(self.refine(path), scale_factor=2, mode="bilinear", align_corners=True)


class Prediction(nn.Module):
    """Convolution, bilinear x2, convolution, ReLU, 1x1 convolution to one logit."""

    def __init__(self, width: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden[0], 3, padding=1)
        self.conv2 = nn.Conv2d(hidden[0], hidden[1], 3, padding=1)
        self.conv3 = nn.Conv2d(hidden[1], 1, 1)

    def forward(self, x_MCYX: Tensor) -> Tensor:
        """(M, C, Y, X) to (M, 1, 2Y, 2X)."""
        x_MCYX = F.interpolate(self.conv1(x_MCYX), scale_factor=2, mode="bilinear", align_corners=False)
        logits: Tensor = self.conv3(F.relu(self.conv2(x_MCYX)))
        return logits


class DecoderOutput(NamedTuple):
    """What the decoder gives.

    Attributes:
        logits: (M', 1, 4Y, 4X) for maps of which the largest is (Y, X); M' = M, or fewer frames on request.
        audio: stage -> (B, T, width), the aligned audio vector of each stage with TPAVI; empty without sound.
        maps: four (M, width, Y_i, X_i), after TPAVI and a ReLU.
    """

    logits: Tensor
    audio: dict[int, Tensor]
    maps: list[Tensor]


class AVSDecoder(nn.Module):
    """Four maps and audio vectors to mask logits at four times the largest map.

    Args:
        channels: channels of the maps from the largest to the smallest; None: they have ``width`` channels already, and
            there are no dilated convolutions.
        width: channels inside.
        tpavi_stages: stages with TPAVI, 0 the largest map.
        audio_width: width of the audio vectors; None: TPAVI relates the picture to itself, as in AVSBench's
            visual-only ablation.
        output_widths: channels of the two hidden layers of the prediction.

    Attributes:
        unused_in_reference: parameters that the reference allocates and never uses.
    """

    def __init__(
        self,
        channels: Sequence[int] | None,
        width: int = 256,
        *,
        tpavi_stages: Sequence[int] = (0, 1, 2, 3),
        audio_width: int | None = 128,
        output_widths: tuple[int, int] = (128, 32),
    ) -> None:
        super().__init__()
        self.dilated = None if channels is None else nn.ModuleList(DilatedSum(count, width) for count in channels)
        self.tpavi = nn.ModuleDict({str(stage): TPAVI(width, audio_width) for stage in sorted(tpavi_stages)})
        last = DECODER_STAGES - 1
        self.fusion = nn.ModuleList(FusionBlock(width, lateral=stage < last) for stage in range(DECODER_STAGES))
        self.prediction = Prediction(width, output_widths)
        self.unused_in_reference = 2 * (9 * width * width + width)

    def forward(
        self, maps: Sequence[Tensor], audio_MD: Tensor | None, segments: int, *, decoded: int | None = None
    ) -> DecoderOutput:
        """Decode B clips of T = ``segments`` frames.

        Args:
            maps: four (M, C_i, Y_i, X_i), each of twice the size of the next one.
            audio_MD: (M, D), or None in a decoder without sound.
            segments: T.
            decoded: decode only this many frames of each clip, counted from its first one; all still meet in TPAVI.
        """
        if self.dilated is not None:
            maps = [
                dilated(x.contiguous(memory_format=torch.channels_last))
                for dilated, x in zip(self.dilated, maps, strict=True)
            ]
        refined = list(maps)
        audio_BTD = None if audio_MD is None else audio_MD.unflatten(0, (-1, segments))
        audio: dict[int, Tensor] = {}
        for name, tpavi in self.tpavi.items():
            stage = int(name)
            z_BTCYX, aligned_BTC = tpavi(refined[stage].unflatten(0, (-1, segments)), audio_BTD)
            refined[stage] = z_BTCYX.flatten(0, 1)
            if aligned_BTC is not None:
                audio[stage] = aligned_BTC
        # The ReLU that opens the fusion works in place in the reference: the maps that it returns, and that the MS3
        # loss reads, are rectified too.
        refined = [F.relu(x) for x in refined]
        path: Tensor | None = None
        for fusion, x in zip(reversed(self.fusion), reversed(refined), strict=True):
            kept = x if decoded is None else x.unflatten(0, (-1, segments))[:, :decoded].flatten(0, 1)
            path = fusion(kept, path)
        return DecoderOutput(self.prediction(path), audio, refined)
