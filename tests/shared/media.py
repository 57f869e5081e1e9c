"""Media files whose pixels and samples a test knows."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

__all__ = ["grey_video"]


def grey_video(path: Path, levels: Iterable[int], sound_SC: np.ndarray, rate: int, *, fps: int = 10) -> Path:
    """A lossless Matroska file: a grey picture (32 x 32 px) for each level, and int16 sound of one or two channels."""
    layout = {1: "mono", 2: "stereo"}[sound_SC.shape[1]]
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("ffv1", rate=fps)
        pictures.height, pictures.width, pictures.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        for level in levels:
            grey = np.full((32, 32, 3), level, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(pictures.encode(None))
        piece = av.AudioFrame.from_ndarray(sound_SC.reshape(1, -1).copy(), format="s16", layout=layout)
        piece.sample_rate = rate
        container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path
