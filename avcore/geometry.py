"""What a backbone takes in, and what of a clip goes with each segment. Data, no weights; imports no torch.

Shape letters: B clips, T segments, M = B*T, Y and X image rows and columns, S samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "AudioGeometry",
    "FilterBankGeometry",
    "ImageGeometry",
    "MelGeometry",
    "TextGeometry",
    "Windows",
]


@dataclass(frozen=True, kw_only=True)
class ImageGeometry:
    """Pictures as a backbone takes them: ``size`` px square, normalised as (value / 255 - mean) / std.

    ``frames`` is K, how many of each segment: one, or several for an encoder of videos. They lie in the middles of K
    equal pieces of the segment, and `Tower.embed` takes (M, K, 3, Y, X) then.
    """

    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    frames: int = 1

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be 1 or more, not {self.frames}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pictures of a segment: (3, Y, X), or (K, 3, Y, X) with K > 1."""
        one = (3, self.size, self.size)
        return one if self.frames == 1 else (self.frames, *one)


@dataclass(frozen=True, kw_only=True)
class AudioGeometry:
    """Sound as a backbone takes it, ``rate`` Hz. A backbone with a front end of its own derives a geometry from this.

    Attributes:
        front_end: ``"package.module:Name"`` of what turns sound into what `Tower.embed` takes; made as
            ``build(geometry, windows, segments)``, an ``nn.Module`` that is called with `Batch.waveform`.
        channels: 1, all channels of a file mixed, or 2, left and right; sound of one channel is in both then.
    """

    front_end: ClassVar[str]
    rate: int = 16000
    channels: int = 1

    def __post_init__(self) -> None:
        if self.channels not in (1, 2):
            raise ValueError(f"channels must be 1 or 2, not {self.channels}")

    def shape(self, seconds: float) -> tuple[int, ...]:
        """Of the sound of so many seconds: (S,), or (2, S) of two channels."""
        samples = round(seconds * self.rate)
        return (samples,) if self.channels == 1 else (self.channels, samples)


@dataclass(frozen=True, kw_only=True)
class FilterBankGeometry(AudioGeometry):
    """A log-mel picture of each segment, time x mel, by the Kaldi filter bank of AST (arXiv:2104.01778).

    As LAVISH feeds it to image backbones: ``mel_bins`` bands, one frame every ``shift_ms`` ms, normalised as
    (value - mean) / (2 * std), then zero-padded or cut to ``frames`` rows. With ``pad_first`` zeros are appended before
    the normalisation, as AST was trained: missing rows are then -mean / (2 * std).
    """

    front_end: ClassVar[str] = "avcore.data.frontends:FilterBank"
    mel_bins: int = 128
    shift_ms: float = 10.0
    frames: int = 102
    mean: float = -4.1426
    std: float = 3.2001
    pad_first: bool = False


@dataclass(frozen=True, kw_only=True)
class MelGeometry(AudioGeometry):
    """A log-mel spectrogram of each segment in dB, time x mel, as HTS-AT (arXiv:2202.00874) takes it.

    Power spectra of ``fft`` samples under a Hann window, one every ``hop`` samples; ``mel_bins`` bands from ``low_hz``
    to ``high_hz`` Hz on Slaney's scale. A segment shorter than ``repeat_seconds`` s is repeated up to that length.
    """

    front_end: ClassVar[str] = "avcore.data.frontends:MelSpectrogram"
    rate: int = 32000
    fft: int = 1024
    hop: int = 320
    mel_bins: int = 64
    low_hz: float = 50.0
    high_hz: float = 14000.0
    repeat_seconds: float | None = 10.0


@dataclass(frozen=True, kw_only=True)
class TextGeometry:
    """Sentences as a backbone takes them.

    A learnt context stands at places of its own: whoever writes the sentences begins each with n times ``placeholder``
    and a space, and a part adds to the embeddings there (`Prompt.after_embedding`). Any words will do (``a photo of
    a``), if each is one id; the learnt vectors then start at them.

    Attributes:
        length: L, the ids of a sentence, with those that begin, end and fill it.
        vocabulary: how many ids there are; they count from 0.
        tokenizer: ``"package.module:Name"`` of what makes sentences to ids, imported when first needed, or, where it
            depends on files, the callable itself. It is called as ``tokenizer(sentences, length=L)`` with a list of
            texts and returns (K, L) int64 on the CPU, longer sentences cut.
        placeholder: a word that is one id.
        lead: how many ids come before the first word of a sentence: the place of the first placeholder.
    """

    length: int
    vocabulary: int
    tokenizer: str | Callable[..., Any]
    placeholder: str = "X"
    lead: int = 1


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The pieces of sound that go with the T segments of a clip, in seconds.

    T windows of ``length`` s start at equal spacing from 0 to (duration - ``margin``). ``margin`` is at least
    ``length``; the reference code leaves 0.1 s more (1.1 for 1.0, 2.05 for 1.95). A clip no longer than ``margin`` goes
    whole with every segment.
    """

    length: float
    margin: float
