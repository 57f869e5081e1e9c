"""Settings, and what the backbone takes in; torch-free, because plugins are listed without torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from avcore import AudioGeometry

__all__ = ["Wav2Vec2Settings", "WaveformGeometry"]


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Settings:
    """How the audio stream uses a wav2vec 2.0."""

    weights: str = field(
        default="hub", metadata={"help": "hub (torchaudio's published file), random, or the path of a file"}
    )
    seconds: float = field(
        default=1.0, metadata={"help": "sound of a segment in s; a shorter window is padded with zeros at its end"}
    )

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds must be above 0, not {self.seconds}")


@dataclass(frozen=True, kw_only=True)
class WaveformGeometry(AudioGeometry):
    """The waveform of each segment, ``seconds`` s in [-1, 1]; with ``normalise`` of mean 0 and deviation 1."""

    front_end: ClassVar[str] = "avcore_wav2vec2.frontend:WaveformFrontEnd"
    seconds: float = 1.0
    normalise: bool = False

    @property
    def samples(self) -> int:
        """S of a segment."""
        return round(self.rate * self.seconds)
