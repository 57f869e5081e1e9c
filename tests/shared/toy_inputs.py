"""Three tasks on the clips of the toy world that need more than pictures and sound. Written with public names only.

``asked``: a question given as ids; ``compared``: the frozen features of another clip; ``precomputed``: features from
npy files beside the clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

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
    hookimpl,
    read_features,
)

HERE = __name__
WORDS = {"is": 1, "it": 2, "humming": 3, "quiet": 4}
LENGTH = 4


class Accuracy(Metric):
    hits: Tensor
    clips: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("hits", "clips"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        self.hits += (prediction["answer"] == batch.targets["answer"])[batch.valid].sum()
        self.clips += batch.valid.sum()

    def compute(self) -> dict[str, float]:
        return {"accuracy": 100 * float(self.hits / self.clips)}


class Yes(Task):
    """Yes or no for each clip, and how sure for both: two numbers a clip, as many as it has segments."""

    score = "accuracy"
    prediction: ClassVar[Mapping[str, str]] = {"answer": "clip", "sure": "clip"}

    def metrics(self, protocol: str) -> Accuracy:
        return Accuracy()

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        return frames_TYX3

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        return f"{['no', 'yes'][int(prediction['answer'])]} of {len(prediction['sure'])}"


class Asked(Yes):
    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"question": Input(shape=(LENGTH,), dtype="int64", help="a question such as 'is it humming'")}

    def read_input(self, name: str, text: str) -> Tensor:
        words = text.rstrip("?").split()
        if unknown := [word for word in words if word not in WORDS]:
            raise AVCoreError(f"Nobody taught this task the word '{unknown[0]}'.")
        ids = [WORDS[word] for word in words]
        return torch.tensor(ids + [0] * (LENGTH - len(ids)))


class Precomputed(Yes):
    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"vector": Input(shape=(3,), help="a file of features (.npy)")}

    def read_input(self, name: str, text: str) -> Tensor:
        return read_features(text, (3,))


class AnswerHead(Head):
    """A linear map of the sound of a clip and of whatever else there is."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        super().__init__(config, layouts, task)
        self.words = nn.Embedding(len(WORDS) + 1, 4)
        self.map = nn.Linear(layouts["audio"].width + 4, 2)

    def forward(self, features: Features) -> dict[str, Tensor]:
        asked = self.words(features.inputs["question"]).mean(1)
        return {"logits": self.map(torch.cat([features.stream("audio").pooled.mean(1), asked], -1))}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        each_B = F.cross_entropy(output["logits"], batch.targets["answer"], reduction="none")
        return {"answer": each_B[batch.valid].mean()}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"answer": output["logits"].argmax(-1), "sure": output["logits"].softmax(-1)}


class VectorHead(AnswerHead):
    """Answers from the file alone."""

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        nn.Module.__init__(self)
        self.map = nn.Linear(3, 2)

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"logits": self.map(features.inputs["vector"])}


class CompareHead(AnswerHead):
    """Pushes the sound of a clip away from that of its negative, less and less with the epochs."""

    SEEN: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, config: Any, layouts: Mapping[str, StreamLayout], task: Task) -> None:
        nn.Module.__init__(self)
        self.companions = {"negative": "plain"}
        self.map = nn.Linear(layouts["audio"].width, 2)

    def forward(self, features: Features) -> dict[str, Tensor]:
        own = features.stream("audio").pooled.mean(1)
        made = {"logits": self.map(own), "own": own}
        if "negative" in features.companions:
            other = features.companions["negative"]
            made["other"] = other.stream("audio").pooled.mean(1)
            made["kept"] = torch.tensor(float(bool(other.offers) or made["other"].requires_grad))
        return made

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        self.SEEN.append((progress, dict(zip(batch.names, batch.companions["negative"].names, strict=True))))
        apart = F.cosine_similarity(output["own"], output["other"]).mean()
        weight = 0.1 * (1 - progress.epoch / progress.epochs)
        assert not output["kept"]
        return {**super().loss(output, batch, progress), "apart": weight * apart}


class Files(Dataset):
    """The clips of the toy world: does it hum?"""

    splits = ("train", "val", "test")

    def __init__(self, config: ClipSettings, root: Path, task: Task) -> None:
        self.root = root
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)

    def clips(self, split: str) -> Sequence[Clip]:
        return [
            Clip(
                name=f"{split}{sound.stem}",
                frames=tuple(self.root / split / f"{sound.stem}_{second}.png" for second in range(self.segments)),
                audio=sound,
                seconds=float(self.segments),
                info={"hums": int(sound.stem) % 2, "split": split},
            )
            for sound in sorted((self.root / split).glob("*.wav"))
        ]

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {"answer": torch.tensor(clip.info["hums"])}


class Questions(Files):
    """Every other clip is asked whether it is quiet."""

    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        return {"question": torch.tensor([1, 2, 4 if self.negated(clip) else 3, 0])}

    def target(self, clip: Clip) -> dict[str, Tensor]:
        return {"answer": torch.tensor(clip.info["hums"] ^ self.negated(clip))}

    def negated(self, clip: Clip) -> int:
        return int(clip.name[-1]) // 2 % 2


class DrawnQuestions(Questions):
    """Which of the two each clip is asked is drawn in each epoch; nothing else knows the question."""

    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        return replace(clip, info={**clip.info, "negated": int(random.integers(2))})

    def negated(self, clip: Clip) -> int:
        return int(clip.info["negated"])


class Negatives(Files):
    def draw(self, clip: Clip, random: np.random.Generator) -> Clip:
        others = [other for other in self.clips(clip.info["split"]) if other.info["hums"] != clip.info["hums"]]
        return replace(clip, companions={"negative": others[random.integers(len(others))]})


class Vectors(Files):
    def inputs(self, clip: Clip, epoch: int) -> dict[str, Tensor]:
        assert clip.audio is not None
        return {"vector": read_features(clip.audio.with_suffix(".npy"), (3,))}


class Plugin:
    @hookimpl
    def avcore_heads(self) -> list[HeadSpec]:
        return [
            HeadSpec(name="answer", build=f"{HERE}:AnswerHead", config=NoConfig, serves=("answer",)),
            HeadSpec(name="vector", build=f"{HERE}:VectorHead", config=NoConfig, serves=("precomputed",)),
            HeadSpec(name="compare", build=f"{HERE}:CompareHead", config=NoConfig, serves=("clip",)),
        ]

    @hookimpl
    def avcore_tasks(self) -> list[TaskSpec]:
        defaults = {
            "visual.backbone": "toy",
            "train": {"epochs": 2, "batch_size": 4, "eval_batch_size": 4, "precision": "fp32"},
        }
        return [
            TaskSpec(name="asked", build=f"{HERE}:Asked", head="answer", kind="answer", defaults=defaults),
            TaskSpec(name="precomputed", build=f"{HERE}:Precomputed", head="vector", kind="vectors", defaults=defaults),
            TaskSpec(name="compared", build=f"{HERE}:Yes", head="compare", kind="clip", defaults=defaults),
        ]

    @hookimpl
    def avcore_datasets(self) -> list[DatasetSpec]:
        cut = {
            "data.segments": 2,
            "data.clip_seconds": 2.0,
            "data.window_seconds": 1.0,
            "data.window_margin": 1.0,
        }
        return [
            DatasetSpec(name=f"{task}-files", build=f"{HERE}:{reader}", tasks=(task,), defaults=cut)
            for task, reader in (("asked", "Questions"), ("precomputed", "Vectors"), ("compared", "Negatives"))
        ] + [DatasetSpec(name="asked-drawn", build=f"{HERE}:DrawnQuestions", tasks=("asked",), defaults=cut, demo=True)]
