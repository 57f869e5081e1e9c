from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from levels import Levels
from PIL import Image

from avcore.data.loader import ClipLoader
from avcore.specs import AudioGeometry, ImageGeometry
from avcore.tasks import Clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, make_wav: Any) -> list[Clip]:
    root = tmp_path_factory.mktemp("levels")
    made = []
    for number in range(11):
        picture = root / f"{number}.png"
        Image.new("RGB", (4, 4), (number, 0, 0)).save(picture)
        sound = make_wav(root / f"{number}.wav", np.full(8000, number + 1, np.int16), rate=8000)
        info = {"number": number}
        group = "abc"[number % 3]
        made.append(
            Clip(name=f"clip {number}", frames=(picture, picture), audio=sound, seconds=1.0, group=group, info=info)
        )
    return made


@pytest.fixture
def load(clips: list[Clip], tmp_path: Path) -> Any:
    def make(**changes: Any) -> ClipLoader:
        settings: dict[str, Any] = dict(
            image=ImageGeometry(size=8),
            audio=AudioGeometry(rate=8000),
            batch_size=4,
            shuffle=True,
            seed=3,
            cache=tmp_path,
        )
        dataset = changes.pop("dataset", Levels(clips))
        return ClipLoader(dataset, changes.pop("split", "train"), **(settings | changes))

    return make


@pytest.fixture
def holed(clips: list[Clip]) -> Levels:
    """Clip 2 has no sound, clip 7 no second picture."""
    broken = list(clips)
    broken[2] = replace(clips[2], audio=Path("/nowhere/2.wav"))
    broken[7] = replace(clips[7], frames=clips[7].frames[:1])  # type: ignore[index]
    return Levels(broken)
