"""A plugin small enough to train in a second: two blocks of width 8, clips of two segments that hum or are silent.

Only the sound tells the class of a clip; a picture is of one colour, drawn at random: noise takes long to write as PNG.
"""

import wave
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchmetrics import Metric

from avcore.backbones import Backbone, Block, Tower
from avcore.errors import AVCoreError
from avcore.hookspecs import hookimpl
from avcore.injection import Edit, PromptLayer
from avcore.modules import GroupedBottleneck
from avcore.specs import (
    BackboneSpec,
    ClipSettings,
    DatasetSpec,
    FilterBankGeometry,
    HeadSpec,
    ImageGeometry,
    MethodSpec,
    NoConfig,
    PromptSpec,
    StageLayout,
    StreamLayout,
    TaskSpec,
    Windows,
)
from avcore.tasks import Batch, Clip, Dataset, Features, Head, Progress, Task

WIDTH, RATE, SECONDS, SEGMENTS = 8, 8000, 2, 2

MOMENTS: dict[str, Callable[[], None]] = {}
"""What to do when a run comes to a moment of this name; in loader processes too, where they are forked."""


def moment(name: str) -> None:
    """A run has come here."""
    MOMENTS.get(name, lambda: None)()


@dataclass(frozen=True, kw_only=True)
class TrunkSettings:
    seed: int = 7  # of the frozen weights


class ToyBlock(Block):
    def __init__(self, maps: Any) -> None:
        super().__init__()
        self.maps = maps

    @property
    def dtype(self) -> torch.dtype:
        return self.maps[0].weight.dtype

    def attention(self, x_MND, *, rows=None, carry=None, **rest):
        seen = x_MND if rows is None else torch.cat([x_MND, rows.expand(len(x_MND), -1, -1)], 1)
        return torch.tanh(self.maps[0](x_MND + seen.mean(1, keepdim=True))), None

    def mlp(self, x_MND, *, project=None):
        return torch.tanh(self.maps[1](x_MND))


class Trunk(Backbone):
    def __init__(self, settings: TrunkSettings, *, name: str, preset: Any) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(settings.seed)
        on_meta = torch.empty(0).device.type == "meta"
        self.picture = nn.Linear(3 * 16, WIDTH)
        self.sound = nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList(
            ToyBlock(nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))) for _ in range(2)
        )
        if not on_meta:
            for parameter in self.parameters():
                parameter.data = torch.randn(parameter.shape, generator=draws, device="cpu") * 0.3
        self.freeze()

    def tower(self, stream: str, settings: Any, segments: int, windows: Windows | None = None) -> Tower:
        return ToyTower(self, stream, segments).freeze()


class ToyTower(Tower):
    def __init__(self, trunk: Trunk, stream: str, segments: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.stream = stream
        stage = StageLayout(width=WIDTH, heads=1, depth=2, grid=(2, 2))
        self.layout = StreamLayout(stages=(stage,), segments=segments, taps=(1,), pool="mean")
        self.geometry = (
            ImageGeometry(size=8) if stream == "visual" else FilterBankGeometry(rate=RATE, mel_bins=8, frames=96)
        )

    def embed(self, image: Tensor) -> Tensor:
        image = image.to(self.trunk.blocks[0].dtype)
        if self.stream == "visual":
            return self.trunk.picture(F.unfold(image, 4, stride=4).transpose(1, 2))
        return self.trunk.sound(image.unflatten(1, (4, -1)).mean(2))

    def enter(self, x_MND: Tensor) -> Tensor:
        return x_MND

    def block(self, index: int) -> Block:
        return self.trunk.blocks[index]

    def norm(self, x_MND: Tensor) -> Tensor:
        return x_MND

    def pool(self, tokens_MND: Tensor) -> Tensor:
        return tokens_MND.mean(1)


@dataclass(frozen=True, kw_only=True)
class RowsSettings:
    length: int = 2  # rows in every block


class Rows(PromptLayer):
    def __init__(self, config: RowsSettings, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(config.length, block.width) * 0.1)
        self.dropout = nn.Dropout(0.1)

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        if self.training and x_MND.device.type != "meta":
            moment("step")
        return Edit(rows=self.dropout(self.rows))


class Narrow(GroupedBottleneck):
    """A bottleneck with batch normalisation, in training over all clips of the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # No layer norm before it: the gradient of its bias, which the batch norm takes away again, is rounding alone.
        norms = {"batch_norm": True, "before_norm": False, "post_norm": True, "gated": True, "gate_first": False}
        self.add_bottleneck(width, reduction=2, groups=2, where="parts.narrow", **norms)
        nn.init.ones_(self.gate)

    def forward(self, x_MND: Tensor) -> Tensor:
        return self.widened(self.down(self.norm_before(x_MND), exact=True))


class Narrowed(PromptLayer):
    def __init__(self, config: NoConfig, block: Any) -> None:
        super().__init__()
        self.narrow = Narrow(block.width)

    def mlp(self, x_MND: Tensor, at: Any) -> Edit:
        if self.training and x_MND.device.type != "meta":
            moment("step")
        return Edit(add=self.narrow(x_MND))


class Spoiler(Rows):
    """Changes what is frozen."""

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        if self.training and x_MND.device.type != "meta":
            with torch.no_grad():
                at.block.maps[1].bias += 0.5
        return super().attention(x_MND, at)


class Exploder(Rows):
    """Not a number in the second step and, by default, in all that follow."""

    calls = 0
    until: float = float("inf")

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        if self.training and x_MND.device.type != "meta":
            Exploder.calls += 1
        bad = self.training and 4 < Exploder.calls <= Exploder.until
        return Edit(rows=self.rows * (float("nan") if bad else 1.0))


class ClassHead(Head):
    def __init__(self, config: Any, layouts: Any, task: Task) -> None:
        super().__init__(config, layouts, task)
        self.streams = list(layouts)
        self.map = nn.Linear(WIDTH * len(self.streams), 2)

    def forward(self, features: Features) -> dict[str, Tensor]:
        pooled = [features.stream(name).pooled.mean(1) for name in self.streams]
        return {"logits": self.map(torch.cat(pooled, -1).float())}

    def loss(self, output: Mapping[str, Tensor], batch: Batch, progress: Progress) -> dict[str, Tensor]:
        losses = F.cross_entropy(output["logits"].float(), batch.targets["class"], reduction="none")
        return {"entropy": losses[batch.valid].mean()}

    def predict(self, output: Mapping[str, Tensor], features: Features) -> dict[str, Tensor]:
        return {"class": output["logits"].argmax(-1)}


class Accuracy(Metric):
    hits: Tensor
    clips: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("hits", "clips"):
            self.add_state(state, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        moment("evaluation")
        self.hits += (prediction["class"] == batch.targets["class"])[batch.valid].sum()
        self.clips += batch.valid.sum()

    def compute(self) -> dict[str, float]:
        return {"accuracy": 100 * int(self.hits) / int(self.clips), "clips": float(self.clips)}


class Listen(Task):
    score = "accuracy"
    prediction: ClassVar[dict[str, str]] = {"class": "clip"}

    def metrics(self, protocol: str) -> Accuracy:
        return Accuracy()

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        moment("picture")
        return frames_TYX3 // 2 if int(prediction["class"]) else frames_TYX3

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        return {"class": torch.stack([truth["class"] for truth in truths]).bincount(minlength=2).argmax()}

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(targets)


def render(task: str, cache: Path, progress: Callable[[int, int], None] | None = None, seed: int = 0) -> Path:
    """Twelve clips for training and six for each other split, half of which hum."""
    root = Path(cache) / f"toy-world-{seed}"
    if (root / "done").exists():
        return root
    draws = np.random.default_rng(seed)
    for split, clips in (("train", 12), ("val", 6), ("test", 6)):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        for clip in range(clips):
            for second in range(SECONDS):
                colour = draws.integers(0, 255, 3, dtype=np.uint8)
                Image.new("RGB", (8, 8), tuple(colour.tolist())).save(folder / f"{clip}_{second}.png")
            time = np.arange(RATE * SECONDS) / RATE
            hum = np.sin(2 * np.pi * draws.uniform(300, 600) * time) * 9000 if clip % 2 else np.zeros(len(time))
            with wave.open(str(folder / f"{clip}.wav"), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes((hum + draws.normal(0, 30, len(time))).astype("<i2").tobytes())
    (root / "done").touch()
    return root


class Files(Dataset):
    splits = ("train", "val", "test")

    def __init__(self, config: ClipSettings, root: Path, task: Task) -> None:
        if not (root / "train").is_dir():
            raise AVCoreError(f"{root} has no folder 'train'.")
        self.root = root
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)

    def clips(self, split: str) -> Sequence[Clip]:
        return [
            Clip(
                name=f"{split}{sound.stem}",
                frames=tuple(self.root / split / f"{sound.stem}_{second}.png" for second in range(SECONDS)),
                audio=sound,
                seconds=float(SECONDS),
                group=str(int(sound.stem) % 2),
                info={"class": int(sound.stem) % 2},
            )
            for sound in sorted((self.root / split).glob("*.wav"))
        ]

    def target(self, clip: Clip) -> dict[str, Tensor]:
        moment("data")
        return {"class": torch.tensor(clip.info["class"])}


CALLS: list[tuple[str, Any]] = []
"""What the lifecycle hooks of `Plugin` were called with."""
STEPS: list[dict[str, float]] = []
"""The scalars of every step."""
EVALUATED: list[tuple[str, int]] = []
"""Splits, and the step of the weights that they were evaluated with."""
INTERRUPT_AT: list[int] = []
"""Steps at which somebody presses Ctrl-C."""
CLIP = {
    "data.segments": SEGMENTS,
    "data.clip_seconds": float(SECONDS),
    "data.window_seconds": 1.0,
    "data.window_margin": 1.0,
}
HERE = "avcore_toy_world"


class Plugin:
    @hookimpl
    def avcore_backbones(self):
        return [BackboneSpec(name="trunk", build=f"{HERE}:Trunk", config=TrunkSettings, presets={"toy": {}})]

    @hookimpl
    def avcore_prompts(self):
        return [
            PromptSpec(name="rows", build=f"{HERE}:Rows", config=RowsSettings),
            PromptSpec(name="spoiler", build=f"{HERE}:Spoiler", config=RowsSettings),
            PromptSpec(name="narrow", build=f"{HERE}:Narrowed", config=NoConfig),
            PromptSpec(name="exploder", build=f"{HERE}:Exploder", config=RowsSettings),
        ]

    @hookimpl
    def avcore_heads(self):
        return [HeadSpec(name="class", build=f"{HERE}:ClassHead", config=NoConfig)]

    @hookimpl
    def avcore_tasks(self):
        defaults = {
            "visual.backbone": "toy",
            "train": {"epochs": 2, "batch_size": 4, "eval_batch_size": 4, "precision": "fp32", "log_every": 1},
            "optim": {"lr": 0.02, "head_lr": 0.05},
        }
        return [TaskSpec(name="listen", build=f"{HERE}:Listen", head="class", defaults=defaults)]

    @hookimpl
    def avcore_datasets(self):
        shared = {"build": f"{HERE}:Files", "config": ClipSettings, "tasks": ("listen",), "defaults": CLIP}
        return [
            DatasetSpec(name="toy-demo", provide=f"{HERE}:render", default_for=("listen",), demo=True, **shared),
            DatasetSpec(name="toy-files", **shared),
        ]

    @hookimpl
    def avcore_methods(self):
        return [MethodSpec(name="rowing", prompts=("rows",))]

    @hookimpl
    def avcore_run_started(self, run):
        CALLS.append(("run_started", run.directory))

    @hookimpl
    def avcore_model_assembled(self, run, model):
        CALLS.append(("model_assembled", model))

    @hookimpl
    def avcore_step_finished(self, run, step):
        CALLS.append(("step_finished", step["step"]))
        STEPS.append(step)
        if step["step"] in INTERRUPT_AT:
            raise KeyboardInterrupt

    @hookimpl
    def avcore_evaluated(self, run, split, scores, step):
        CALLS.append(("evaluated", split))
        EVALUATED.append((split, step))

    @hookimpl
    def avcore_checkpoint_saved(self, run, path):
        CALLS.append(("checkpoint_saved", path.name))
        moment("saved")

    @hookimpl
    def avcore_run_finished(self, run, status):
        CALLS.append(("run_finished", status))
