"""Trains the demo's towers of pictures and sound, and of sentences, on worlds that no demo clip comes from.

The trunk of pictures and sound begins as `demo_vit`, of which it keeps the lower half as it is: what that makes of the
examples is computed once. Its class token is mapped into a space that sentences are mapped into too. Every sentence of
a batch is held against every picture, or every sound, of it: those that it is true of are to be near it, by the truth
of the generator. Things of `avcore_demo.UNKNOWN` are in no picture, no sound and no sentence of the training.

    python scripts/pretrain_words.py            # writes ../src/avcore_demo/weights/demo_{clip,text,words}.*
    python scripts/pretrain_words.py --steps 3 --clips 8 --test-clips 4 --out /tmp/try
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import tokenizers
import torch
import torch.nn.functional as F
from pretrain import WEIGHTS
from pretrain_data import fit
from torch import Tensor, nn
from words_data import (
    SAYS_NOTHING,
    WORDS,
    Examples,
    is_unknown,
    pictures,
    sentence,
    sentences,
    sounds,
    true_of,
)

from avcore.backbones import TextTower, Tower, without_blocks
from avcore_clap.settings import ClapTextSettings
from avcore_clap.text import ClapText
from avcore_clap.tokenizer import Tokenizer
from avcore_demo import BACKBONE, CLIP_BACKBONE, KINDS, TEXT_BACKBONE, UNKNOWN
from avcore_demo.makes import MAKES
from avcore_timm.settings import ViTSettings
from avcore_timm.vit import build

BANK = BACKBONE["audio"]
KEPT = 3
"""Blocks of the trunk that stay what they are in `demo_vit`."""
START, MOST = 10.0, 20.0
"""What cosines are multiplied by in the loss: at first, and at most."""


class Towers(nn.Module):
    """The two trunks and what the cosines are multiplied by."""

    def __init__(self, words: Path) -> None:
        super().__init__()
        settings = ViTSettings(weights="random", projection=True)
        trunk = build(settings, name="demo_clip", preset=CLIP_BACKBONE)
        start = safetensors.torch.load_file(WEIGHTS / "demo_vit.safetensors")
        own = without_blocks(trunk.model)
        with torch.no_grad():
            for name, value in start.items():
                own[name].copy_(value)
        text = ClapText("demo_text", {**TEXT_BACKBONE, "tokenizer": str(words)}, eps=TEXT_BACKBONE["eps"])
        self.seen, self.heard = (trunk.tower(stream, settings, 1) for stream in ("visual", "audio"))
        self.text = text.tower("text", ClapTextSettings(), 1)
        self.trunk, self.sentences = trunk, text
        self.tokenizer = Tokenizer(str(words))
        self.log_scale = nn.Parameter(torch.tensor(math.log(START)))
        model = trunk.model
        for trained in (text, model.blocks[KEPT:], model.norm, model.head, self.log_scale):
            trained.requires_grad_(True)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by, ()."""
        return self.log_scale.exp().clamp(max=MOST)

    def see(self, tokens_NTD: Tensor) -> Tensor:
        """What `lower` made of pictures to vectors of length 1, (N, D)."""
        return upper(self.seen, tokens_NTD.float(), first=KEPT)

    def hear(self, tokens_NTD: Tensor) -> Tensor:
        """The same of filter banks."""
        return upper(self.heard, tokens_NTD.float(), first=KEPT)

    def read(self, texts: list[str]) -> Tensor:
        """Sentences to vectors of length 1."""
        ids = self.tokenizer(texts, length=TEXT_BACKBONE["length"])
        return upper(self.text, self.text.enter(self.text.embed(ids)), ids)

    @torch.no_grad()
    def lower(self, data: dict[str, Examples]) -> dict[str, Examples]:
        """Examples behind the blocks that are kept: tokens float16 (N, T, D)."""
        found = {}
        for name, (examples, things) in data.items():
            tower = self.heard if "heard" in name else self.seen
            parts = []
            for part in examples.split(100):
                given = part.float() if "heard" in name else (part.float() / 255 - 0.5) / 0.5
                x = tower.enter(tower.embed(given))
                for index in range(KEPT):
                    x = tower.block(index)(x)
                parts.append(x.half())
            found[name] = torch.cat(parts), things
        return found


def upper(tower: Tower, x: Tensor, ids: Tensor | None = None, *, first: int = 0) -> Tensor:
    """Tokens through the blocks from `first` on and into the common space: of length 1, (N, D)."""
    bias = tower.key_bias(ids) if isinstance(tower, TextTower) and ids is not None else None
    for index in range(first, tower.layout.stages[0].depth):
        block = tower.block(index)
        x = block.after_sum("attention", x + block.attention(x, bias_HNN=bias)[0])
        x = block.after_sum("mlp", x + block.mlp(x))
    return F.normalize(tower.project(tower.pool(tower.norm(x))).float(), dim=-1)


def contrast(cosines_NM: Tensor, true_NM: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of the sentences for each example, and of the examples for each sentence; all true ones alike."""
    logits_NM, total = scale * cosines_NM, torch.zeros(())
    for logits, true in ((logits_NM, true_NM), (logits_NM.T, true_NM.T)):
        total = total - (logits.log_softmax(1) * (true / true.sum(1, keepdim=True))).sum(1).mean() / 2
    return total


def write_words(path: Path) -> int:
    """Writes the tokenizer, an id for each word and one for all others, in the format of `tokenizers`; their number."""
    ids = {word: index for index, word in enumerate(dict.fromkeys(("<s>", "<pad>", "</s>", "<unk>", *WORDS)))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
    )
    made.save(str(path), pretty=True)
    return len(ids)


@torch.inference_mode()
def measure(towers: Towers, seen: Examples, heard: Examples) -> dict[str, float]:
    """How many (%) of single things get their name among those of all, of what training knew and of what it did not."""
    names = [(make, kind) for make in range(len(MAKES)) for kind in range(len(KINDS))]
    found = {}
    for what, (examples, things), encode in (("seen", seen, towers.see), ("heard", heard, towers.hear)):
        rng = np.random.default_rng(0)
        rest = [SAYS_NOTHING, SAYS_NOTHING]
        words = torch.stack(
            [towers.read([sentence([*name, *rest], rng, seen=what == "seen") for name in names]) for _ in range(4)]
        ).mean(0)
        best = torch.cat([(encode(part) @ words.T).argmax(1) for part in examples.split(100)])
        right = best == things[:, 0, 0].long() * len(KINDS) + things[:, 0, 1].long()
        unknown = is_unknown(things)
        for group, chosen in (("known", ~unknown), ("unknown", unknown)):
            if chosen.any():
                found[f"{what}_{group}"] = round(100 * right[chosen].float().mean().item(), 2)
    return found


def main() -> None:
    """Renders the data, trains, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--clips", type=int, default=2500, help="clips for pictures; for sounds a third as many")
    parser.add_argument("--test-clips", type=int, default=240)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=40, help="pictures, and sounds, per step")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="keep what is rendered in this file, or take it from there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    if args.data and args.data.exists():
        data = torch.load(args.data, weights_only=True)
    else:
        data = render(args)
        if args.data:
            torch.save(data, args.data)
    print(f"{[len(one) for one, _ in data.values()]} examples after {time.time() - begun:.0f} s", flush=True)
    words = args.out / "demo_words.json"
    if write_words(words) > TEXT_BACKBONE["vocabulary"]:
        raise SystemExit("There are more words than TEXT_BACKBONE has ids.")
    towers = Towers(words)
    data = towers.lower(data)
    train(args, towers, data)
    write(args, towers, data)


def render(args: argparse.Namespace) -> dict[str, Examples]:
    """The examples of training, and of single things to measure by; filter banks are normalised."""
    third = args.clips // 3 + 1
    data = {
        "seen": pictures("train", args.clips, args.threads),
        "heard": sounds("train", third, args.threads),
        "test_seen": pictures("test", args.test_clips, args.threads, alone=True),
        "test_heard": sounds("test", args.test_clips // 2, args.threads, alone=True),
    }
    return {
        name: (fit(one, BANK["mean"], BANK["std"]).half() if "heard" in name else one, things)
        for name, (one, things) in data.items()
    }


def train(args: argparse.Namespace, towers: Towers, data: dict[str, Examples]) -> None:
    """Trains all weights but those of the lower half; what there is after every 200 steps is written."""
    new = [*towers.sentences.parameters(), *towers.trunk.model.head.parameters(), towers.log_scale]
    known = {id(one) for one in new}
    old = [one for one in towers.trunk.parameters() if one.requires_grad and id(one) not in known]
    groups = [{"params": old, "lr": args.lr, "factor": 1.0}, {"params": new, "lr": args.lr, "factor": 3.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02)
    rng, begun = np.random.default_rng(args.seed), time.process_time()
    for step in range(args.steps):
        rate = args.lr * min((step + 1) / 60, 0.5 * (1 + math.cos(math.pi * step / args.steps)) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        losses = []
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            for what, encode in (("seen", towers.see), ("heard", towers.hear)):
                examples, things = data[what]
                chosen = torch.from_numpy(rng.integers(len(examples), size=args.batch))
                given, things = examples[chosen], things[chosen]
                texts, said = sentences(things, rng, seen=what == "seen")
                cosines = encode(given) @ towers.read(texts).T
                losses.append(contrast(cosines.float(), true_of(said, things).float(), towers.scale))
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimiser.step()
        if step % 25 == 0:
            shown = " ".join(f"{loss.item():.3f}" for loss in losses)
            print(
                f"step {step} {time.process_time() - begun:.0f} s {shown} scale {towers.scale.item():.1f}", flush=True
            )
        if step % 200 == 199:
            print(f"step {step}", flush=True)
            write(args, towers, data)


def write(args: argparse.Namespace, towers: Towers, data: dict[str, Examples]) -> None:
    """Writes both trunks in float16 and a JSON beside them, with accuracies measured on what was written.

    The weights here become those that were written.
    """
    for name, module in (("demo_clip", towers.trunk.model), ("demo_text", towers.sentences)):
        own = without_blocks(module)
        state = {key: value.detach().half().contiguous() for key, value in own.items()}
        (args.out / f"{name}.safetensors").write_bytes(safetensors.torch.save(state))
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(state[key])
    given = {name: value for name, value in vars(args).items() if name not in ("out", "data")}
    record = {
        "begins_as": "demo_vit.safetensors",
        "unknown": list(UNKNOWN),
        "scale": round(towers.scale.item(), 2),
        "accuracy": measure(towers, data["test_seen"], data["test_heard"]),
        "chance": round(100 / (len(MAKES) * len(KINDS)), 2),
        "settings": given,
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "tokenizers": tokenizers.__version__},
    }
    (args.out / "demo_clip.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["accuracy"], indent=2), flush=True)


if __name__ == "__main__":
    main()
