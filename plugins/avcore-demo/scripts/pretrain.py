"""Trains the demo's tiny vision transformer on pictures and sounds of worlds that no demo clip comes from.

One trunk reads both: a picture as 12 x 12 patches, a second of sound as a filter bank of 12 x 8 patches. It learns what
kinds there are and where, and what kinds sound, with separate classifiers on separate clips; which sound belongs to
which object is left to whoever uses it.

    python scripts/pretrain.py                  # writes ../src/avcore_demo/weights/demo_vit.{safetensors,json}
    python scripts/pretrain.py                  # again after an interruption: goes on from out/pretrain.pt
    python scripts/pretrain.py --steps 200 --clips 500 --scenes 500 --out /tmp/try
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from pretrain_data import SIZE, filter_bank, fit, pictures, sounds
from torch import Tensor, nn

from avcore.compat import install
from avcore_demo import KINDS

install()
import timm  # noqa: E402

MODEL = "vit_tiny_patch16_224"
SHAPE = dict(img_size=SIZE, patch_size=8, embed_dim=128, depth=6, num_heads=4, num_classes=0)
GRID, PATCH = SIZE // 8, 8
WEIGHTS = Path(__file__).resolve().parent.parent / "src" / "avcore_demo" / "weights"


class Student(nn.Module):
    """The trunk and the classifiers, which are thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model(MODEL, pretrained=False, **SHAPE)
        width, kinds = SHAPE["embed_dim"], len(KINDS)
        self.patch_kind = nn.Linear(width, kinds + 1)
        self.patch_fine = nn.Linear(width, 16)
        self.seen = nn.Linear(width, kinds)
        self.heard = nn.Linear(width, kinds)
        self.heard_mean = nn.Linear(width, kinds)

    def see(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of kind per patch (N, 144, K + 1), of cover per quarter patch (N, 144, 16), of kinds seen (N, K)."""
        x = self.trunk.forward_features((frames.float() / 255 - 0.5) / 0.5)
        return self.patch_kind(x[:, 1:]), self.patch_fine(x[:, 1:]), self.seen(x[:, 0])

    def hear(self, image_NTF: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) of the kinds heard, from the class token and from the mean of the others."""
        vit = self.trunk
        # The projection alone: timm's patch_embed insists on the size of a picture.
        x = vit.patch_embed.proj(image_NTF[:, None].expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1)
        position = F.interpolate(vit.pos_embed.transpose(1, 2), size=x.shape[1], mode="linear").transpose(1, 2)
        x = vit.norm(vit.blocks(vit.norm_pre(x + position)))
        return self.heard(x[:, 0]), self.heard_mean(x[:, 1:].mean(1))


def patch_shares(labels: Tensor) -> Tensor:
    """Share of the background and of each kind in each 8 x 8 patch: (N, 144, K + 1)."""
    one_hot = F.one_hot(labels.long(), len(KINDS) + 1).float()
    one_hot = one_hot.reshape(len(labels), GRID, PATCH, GRID, PATCH, -1)
    return one_hot.mean(dim=(2, 4)).reshape(len(labels), GRID * GRID, -1)


def patch_cover(labels: Tensor) -> Tensor:
    """Share of objects in each of the 4 x 4 cells of each patch: (N, 144, 16)."""
    cells = F.avg_pool2d((labels > 0).float()[:, None], 2)
    return F.unfold(cells, 4, stride=4).transpose(1, 2)


def picture_loss(model: Student, frames: Tensor, labels: Tensor) -> Tensor:
    """Losses of the three picture classifiers, the first per patch with soft targets."""
    kind, fine, seen = model.see(frames)
    shares = patch_shares(labels)
    # Patches with an object weigh more: three quarters of a picture are background.
    weight = 1 + 2 * (shares[..., 0] < 0.75).float()
    dense = -(shares * F.log_softmax(kind.float(), -1)).sum(-1)
    cover = F.binary_cross_entropy_with_logits(fine.float(), patch_cover(labels))
    present = (shares[..., 1:].amax(1) > 0.1).float()
    return (dense * weight).sum() / weight.sum() + cover + F.binary_cross_entropy_with_logits(seen.float(), present)


def sound_loss(model: Student, image_NTF: Tensor, kinds: Tensor) -> Tensor:
    """Losses of the two sound classifiers."""
    token, mean = model.hear(image_NTF)
    target = kinds.float()
    return F.binary_cross_entropy_with_logits(token.float(), target) + F.binary_cross_entropy_with_logits(
        mean.float(), target
    )


@torch.inference_mode()
def measure(model: Student, frames: Tensor, labels: Tensor, image_NTF: Tensor, kinds: Tensor) -> dict[str, float]:
    """Accuracies (%) on clips that training does not see."""
    model.eval()
    right: dict[str, list[Tensor]] = {}

    def note(name: str, values: Tensor) -> None:
        right.setdefault(name, []).append(values.float().flatten())

    for frame, label in zip(frames.split(100), labels.split(100), strict=True):
        kind, fine, seen = model.see(frame)
        shares = patch_shares(label)
        best = kind.argmax(-1)
        covered, empty = shares[..., 1:].amax(-1) >= 0.5, shares[..., 0] == 1
        mostly = shares[..., 1:].amax(-1) >= 0.75
        note("patch_kind_on_mostly_covered", best[mostly] == 1 + shares[..., 1:].argmax(-1)[mostly])
        note("patch_kind_on_objects", best[covered] == 1 + shares[..., 1:].argmax(-1)[covered])
        note("patch_kind_on_background", best[empty] == 0)
        note("quarter_patch_cover", (fine > 0) == (patch_cover(label) > 0.5))
        note("kinds_seen_each", (seen > 0) == (shares[..., 1:].amax(1) > 0.1))
    for image, kind in zip(image_NTF.split(100), kinds.split(100), strict=True):
        single = kind.sum(1) == 1
        for name, logits in zip(("class_token", "mean_token"), model.hear(image), strict=True):
            note(f"sound_single_{name}", logits[single].argmax(1) == kind[single].float().argmax(1))
            note(f"sound_all_exact_{name}", ((logits > 0) == kind).all(1))
            note(f"sound_each_{name}", (logits > 0) == kind)
    model.train()
    return {name: round(100 * torch.cat(values).mean().item(), 2) for name, values in right.items()}


def main() -> None:
    """Renders the data, trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--clips", type=int, default=20000, help="clips for pictures, two frames each")
    parser.add_argument("--scenes", type=int, default=10000, help="scenes for sounds, four seconds each")
    parser.add_argument("--steps", type=int, default=3800)
    parser.add_argument("--sound-steps", type=int, default=1500, help="first steps, with as many sounds as pictures")
    parser.add_argument("--batch", type=int, default=40, help="pictures per step")
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    begun = time.time()
    frames, labels = pictures("train", args.clips, args.threads)
    banks, kinds = sounds("train", args.scenes, args.threads)
    test_frames, test_labels = pictures("test", 400, args.threads)
    test_banks, test_kinds = sounds("test", 400, args.threads)
    silent = filter_bank(torch.zeros(16000)).half()
    measured = banks[~(banks == silent).flatten(1).all(1)].float()
    mean, std = round(measured.mean().item(), 3), round(measured.std().item(), 3)
    print(f"{len(frames)} pictures, {len(banks)} sounds after {time.time() - begun:.0f} s", flush=True)
    print(f"filter bank: mean {mean} std {std}", flush=True)
    test = (test_frames, test_labels, fit(test_banks, mean, std), test_kinds)

    model = Student()
    train(args, model, (frames, labels, fit(banks, mean, std).half(), kinds), test)
    write(args, model, test, {"mean": mean, "std": std})


def train(args: argparse.Namespace, model: Student, data: tuple[Tensor, ...], test: tuple[Tensor, ...]) -> None:
    """Trains on (frames, labels, filter banks, kinds); goes on from the last checkpoint if there is one."""
    frames, labels, banks, kinds = data
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    rng, first, checkpoint = np.random.default_rng(args.seed), 0, args.out / "pretrain.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        first, rng.bit_generator.state = saved["step"], json.loads(saved["rng"])
    begun = time.time()
    for step in range(first, args.steps):
        rate = args.lr * min((step + 1) / 150, 0.5 * (1 + math.cos(math.pi * step / args.steps)) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = torch.from_numpy(rng.integers(len(frames), size=args.batch))
        picture, label = frames[chosen], labels[chosen]
        if rng.random() < 0.5:
            picture, label = picture.flip(-1), label.flip(-1)
        # Sounds are learnt early; later a few of them keep what is known.
        number = args.batch if step < args.sound_steps else args.batch // 5
        chosen = torch.from_numpy(rng.integers(len(banks), size=number))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            seen = picture_loss(model, picture, label)
            heard = sound_loss(model, banks[chosen].float(), kinds[chosen])
        optimiser.zero_grad()
        (seen + heard).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            spent = time.time() - begun
            print(f"step {step} {spent:.0f} s seen {seen.item():.3f} heard {heard.item():.3f}", flush=True)
        if step % 500 == 499:
            print(f"step {step} {measure(model, *test)}", flush=True)
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            torch.save(state | {"rng": json.dumps(rng.bit_generator.state)}, checkpoint)


def write(args: argparse.Namespace, model: Student, test: tuple[Tensor, ...], bank: dict[str, float]) -> None:
    """Writes the trunk in float16 and a JSON beside it, with accuracies measured on what was written."""
    state = {name: value.half().contiguous() for name, value in model.trunk.state_dict().items()}
    (args.out / "demo_vit.safetensors").write_bytes(safetensors.torch.save(state))
    model.trunk.load_state_dict({name: value.float() for name, value in state.items()})
    record = {
        "model": {"name": MODEL, **SHAPE},
        "kinds": list(KINDS),
        "picture": {"mean": 0.5, "std": 0.5},
        "filter_bank": {**bank, "mel_bins": 64, "frames": 96, "rate": 16000, "normalise": "(x - mean) / (2 * std)"},
        "accuracy": measure(model, *test),
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__},
    }
    (args.out / "demo_vit.json").write_text(json.dumps(record, indent=2) + "\n")
    (args.out / "pretrain.pt").unlink(missing_ok=True)
    print(json.dumps(record["accuracy"], indent=2), flush=True)


if __name__ == "__main__":
    main()
