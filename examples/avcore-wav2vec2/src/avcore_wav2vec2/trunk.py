"""wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477) and HuBERT (Hsu et al. 2021, arXiv:2106.07447), frozen.

The modules are torchaudio's. Convolutions turn a waveform at 16 kHz into a vector every 20 ms; a convolution over these
gives positions; a Transformer follows. Both papers use two architectures: norms behind the sums, and one group
norm in the convolutions (``base``, ``large``), or norms before the sub-layers, layer norms in all convolutions, and
waveforms of mean 0 and deviation 1 (``pre_norm``). Shape letters: M batch, S samples, N tokens, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avcore import AVCoreError, StageLayout, StreamLayout, Windows, compat
from avcore.backbones import Backbone, Tower, without_blocks
from avcore_wav2vec2.blocks import Wav2Vec2Block
from avcore_wav2vec2.settings import Wav2Vec2Settings, WaveformGeometry
from avcore_wav2vec2.weights import fill

__all__ = ["Wav2Vec2", "Wav2Vec2Tower", "build"]

CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each, in samples of its input; 320 samples, 20 ms, are one token."""


def build(settings: Wav2Vec2Settings, *, name: str, preset: Mapping[str, Any] | None) -> "Wav2Vec2":
    """Make an encoder, weights loaded as ``settings.weights`` says.

    Args:
        settings: of the audio stream.
        name: what the user wrote.
        preset: ``width``, ``depth``, ``heads``, ``hidden`` width of the MLPs; optional ``pre_norm``, ``bias`` of
            the convolutions, the published ``file``, ``channels`` of the convolutions (512), ``position_kernel`` (128),
            ``position_groups`` (16).

    Raises:
        AVCoreError: weights cannot be had, or do not fit.
    """
    compat.install()
    # Models are first built on the meta device, and tensors that a module makes at its first import would stay there.
    with torch.device("cpu"):
        from torchaudio.models import wav2vec2_model

    if preset is None:
        raise AVCoreError(f"'{name}' has no sizes: choose a preset ('avcore plugins show wav2vec2').")
    pre_norm = preset.get("pre_norm", False)
    model = wav2vec2_model(
        extractor_mode="layer_norm" if pre_norm else "group_norm",
        extractor_conv_layer_config=[(preset.get("channels", 512), *shape) for shape in CONVOLUTIONS],
        extractor_conv_bias=preset.get("bias", False),
        encoder_embed_dim=preset["width"],
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=preset.get("position_kernel", 128),
        encoder_pos_conv_groups=preset.get("position_groups", 16),
        encoder_num_layers=preset["depth"],
        encoder_num_heads=preset["heads"],
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=preset["hidden"],
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=pre_norm,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )
    # torchaudio multiplies length and direction of its kernel in every forward; a frozen one is made once, on loading.
    positions = model.encoder.transformer.pos_conv_embed
    old = positions.conv
    positions.conv = nn.Conv1d(
        old.in_channels, old.out_channels, old.kernel_size, padding=old.padding, groups=old.groups
    )
    notices = fill(model.state_dict(), settings.weights, name=name, published=preset.get("file"))
    return Wav2Vec2(model, name=name, pre_norm=pre_norm, notices=notices)


class Wav2Vec2(Backbone):
    """An encoder of torchaudio, for sound."""

    def __init__(self, model: Any, *, name: str, pre_norm: bool, notices: tuple[str, ...]) -> None:
        super().__init__()
        transformer = model.encoder.transformer
        last = len(transformer.layers) - 1
        transformer.layers = nn.ModuleList(
            Wav2Vec2Block(layer, pre_norm=pre_norm, last=number == last)
            for number, layer in enumerate(transformer.layers)
        )
        self.model = model
        self.name = name
        self.pre_norm = pre_norm
        self.notices = notices
        self.freeze()

    def tower(self, stream: str, settings: Wav2Vec2Settings, segments: int, windows: Windows | None = None) -> Tower:
        """See `Backbone.tower`; for ``audio`` only."""
        made = Wav2Vec2Tower(self, settings, segments)
        made.freeze()
        return made


class Wav2Vec2Tower(Tower):
    """The way of the waveform; its tokens are moments, a grid of one row."""

    def __init__(self, trunk: Wav2Vec2, settings: Wav2Vec2Settings, segments: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.geometry: WaveformGeometry = WaveformGeometry(seconds=settings.seconds, normalise=trunk.pre_norm)
        tokens = _tokens(self.geometry.samples, CONVOLUTIONS)
        if tokens < 1:
            raise AVCoreError(
                f"{settings.seconds} s of sound are too short for a token of '{trunk.name}': raise audio.seconds."
            )
        transformer = trunk.model.encoder.transformer
        stage = StageLayout(
            width=transformer.pos_conv_embed.embed_dim,
            heads=transformer.layers[0].inner.attention.num_heads,
            depth=len(transformer.layers),
            grid=(1, tokens),
        )
        self.layout = StreamLayout(stages=(stage,), segments=segments, pool="mean")

    @property
    def trainable(self) -> Mapping[str, nn.Module]:
        """The norms of no block: behind the last one, and, where norms stand behind sums, before the first."""
        transformer = self.trunk.model.encoder.transformer
        if self.trunk.pre_norm:
            return {"norm": transformer.layer_norm}
        return {"enter": transformer.layer_norm, "norm": transformer.layers[-1].inner.final_layer_norm}

    def weights(self) -> Mapping[str, Tensor]:
        """torchaudio's names; the positional kernel as one tensor."""
        return without_blocks(self.trunk.model)

    def embed(self, image: Tensor) -> Tensor:
        """(M, S) to (M, N, D): convolutions, a linear map, positions."""
        model = self.trunk.model
        samples_MS = image.to(model.encoder.feature_projection.projection.weight.dtype)
        x_MND = model.encoder.feature_projection(model.feature_extractor(samples_MS, None)[0])
        out: Tensor = x_MND + model.encoder.transformer.pos_conv_embed(x_MND)
        return out

    def enter(self, x_MND: Tensor) -> Tensor:
        """The norm before the first block, where norms stand behind sums."""
        return self._apply_norm("enter", x_MND)

    def block(self, index: int) -> Wav2Vec2Block:
        """See `Tower.block`."""
        found: Wav2Vec2Block = self.trunk.model.encoder.transformer.layers[index]
        return found

    def norm(self, x_MND: Tensor) -> Tensor:
        """The norm behind the last block; where norms stand behind sums, the one that ends the last layer."""
        return self._apply_norm("norm", x_MND)

    def pool(self, tokens_MND: Tensor) -> Tensor:
        """The mean."""
        return tokens_MND.mean(1)

    def _apply_norm(self, name: str, x_MND: Tensor) -> Tensor:
        found = self.trainable.get(name)
        return x_MND if found is None else found(x_MND)


def _tokens(samples: int, convolutions: Sequence[tuple[int, int]]) -> int:
    for kernel, stride in convolutions:
        samples = (samples - kernel) // stride + 1
    return samples
