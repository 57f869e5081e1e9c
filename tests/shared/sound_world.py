"""A head, a task and a data set that belong together and keep every promise; broken ones derive from them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from avcore import (
    AVCoreError,
    Batch,
    Clip,
    ClipSettings,
    Dataset,
    DatasetSpec,
    Features,
    Head,
    HeadSpec,
    Input,
    NoConfig,
    Progress,
    StreamLayout,
    Task,
    TaskSpec,
    Windows,
)
from avcore.testing.toys import at_hand


class Scores(Metric):
    valid_only = True
    right: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        right_B = prediction["label"] == batch.targets["label"]
        self.right.append(right_B[batch.valid] if self.valid_only else right_B)

    def compute(self) -> dict[str, float]:
        return {"accuracy": float(dim_zero_cat(self.right).float().mean())}


class Naming(Task):
    score = "accuracy"
    # Of every head below.
    prediction: ClassVar[dict[str, str]] = {"label": "clip", "surest": "clip", "heard": "segment", "seen": "pixel"}
    scores: type[Scores] = Scores

    def metrics(self, protocol: str) -> Scores:
        return self.scores()

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        return np.asarray(frames_TYX3 // 2 if int(prediction["label"]) else 255 - frames_TYX3)

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(targets)

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        return f"class {int(prediction['label'])}"


class Asks(Naming):
    """Sound: takes three ids."""

    given = Input(shape=(3,), dtype="int64", help="three numbers from 0 to 8")

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"words": self.given}

    def read_input(self, name: str, text: str) -> Tensor:
        words = text.split()
        if len(words) != 3 or not all(word in "012345678" for word in words):
            raise AVCoreError(f"'{text}' is not three numbers from 0 to 8.")
        return torch.tensor([int(word) for word in words])


class Linear(Head):
    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.map = nn.Linear(layouts["visual"].width, 2)

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"logits": self.map(features.stream("visual").pooled.mean(1))}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        each_B = F.cross_entropy(output["logits"].float(), batch.targets["label"], reduction="none")
        return {"entropy": each_B[batch.valid].mean()}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"label": output["logits"].argmax(-1)}


class Reads(Linear):
    """Sound: adds what was written of a clip."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.words = nn.Embedding(9, 2)

    def forward(self, features: Features) -> dict[str, Tensor]:
        read_B2 = self.words(features.inputs["words"]).mean(1)
        return {"logits": super().forward(features)["logits"] + read_B2}


class Compares(Linear):
    """Sound: sees how far another clip is from its own."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.companions = {"negative": "plain"}

    def forward(self, features: Features) -> dict[str, Tensor]:
        made = super().forward(features)
        if "negative" in features.companions:
            other = features.companions["negative"].stream("visual").pooled.mean(1)
            made["other"] = self.map(other)
        return made

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        apart_B = (output["logits"] - output["other"]).float().square().mean(1)
        truth_B = batch.companions["negative"].targets["label"] - batch.targets["label"]
        apart = (apart_B * truth_B.abs())[batch.valid & batch.companions["negative"].valid].mean()
        return {**super().loss(output, batch, progress), "apart": apart}


class Files(Dataset):
    splits: tuple[str, ...] = ("train", "test")

    def __init__(self, config: ClipSettings, root: Path, task: Task) -> None:
        self.root = Path(root)
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)

    def clips(self, split: str) -> Sequence[Clip]:
        sounds = sorted((self.root / split).glob("*.wav"))
        if not sounds:
            raise AVCoreError(f"'{self.root / split}' holds no sound.")
        return [self.clip(sound) for sound in sounds]

    def clip(self, sound: Path) -> Clip:
        return Clip(name=sound.stem, frames=(sound.with_suffix(".png"),) * self.segments, audio=sound, seconds=2.0)

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {"label": torch.tensor(int(clip.name) % 2)}


class Asked(Files):
    """Sound: three ids for each clip."""

    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        return {"words": torch.tensor([int(clip.name), epoch, 0])}


class Negatives(Files):
    """Sound: the negative of a clip is another of the other label."""

    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        assert clip.audio is not None
        others = [other for other in self.clips(clip.audio.parent.name) if int(other.name) % 2 != int(clip.name) % 2]
        return replace(clip, companions={"negative": others[random.integers(len(others))]})


def write(root: Path) -> Path:
    for split in Files.splits:
        (root / split).mkdir()
        for number in range(4):
            (root / split / f"{number}.wav").touch()
            (root / split / f"{number}.png").touch()
    return root


def world(
    *,
    head: type[Head] = Linear,
    task: type[Task] = Naming,
    files: type[Files] = Files,
    serves: tuple[str, ...] = (),
    encoders: tuple[str, ...] = (),
    untrained: bool = False,
    **fields: Any,
) -> dict[str, list[Any]]:
    """A head, a task and a data set that belong together."""
    given = {"tasks": ("naming",), "defaults": {"data.segments": 2, "data.clip_seconds": 2.0}, **fields}
    says = {"serves": serves, "encoders": encoders, "untrained": untrained}
    return {
        "heads": [at_hand(HeadSpec, name="linear", thing=head, config=NoConfig, **says)],
        "tasks": [at_hand(TaskSpec, name="naming", thing=task, head="linear")],
        "datasets": [at_hand(DatasetSpec, name="files", thing=files, **given)],
    }
