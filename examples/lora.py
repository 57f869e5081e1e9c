"""LoRA (Hu et al. 2021, arXiv:2106.09685) as a prompt part: increments of frozen linear maps.

`python examples/lora.py` takes one optimiser step and merges what it learnt into the frozen weights.
"""

import copy
import math
import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import avcore_timm
from avcore import PromptLayer, PromptSpec, hookimpl
from avcore.testing.toys import make_batch, make_model


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Which maps, and how many numbers an increment may cost."""

    rank: int = 4
    alpha: float = 8.0  # increments are scaled by alpha / rank
    qkv: bool = True
    proj: bool = True


class LoRA(PromptLayer):
    """Section 4.1: W x + (alpha / r) B A x, with A random and B zero at first."""

    def __init__(self, config, block):
        super().__init__()
        outputs = {"qkv": 3 * block.width, "proj": block.width}
        self.scale = config.alpha / config.rank
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for name, width in outputs.items():
            if getattr(config, name):
                self.A[name] = nn.Parameter(torch.randn(config.rank, block.width) / math.sqrt(block.width))
                self.B[name] = nn.Parameter(torch.zeros(width, config.rank))

    def projection(self, name, x):
        """What is added to the map's output for its input ``x``; None where it stays as it is."""
        if name not in self.A:
            return None
        return F.linear(F.linear(x, self.A[name]), self.B[name]) * self.scale

    def increment(self, name):
        """What a merged weight has more than the frozen one."""
        return self.scale * self.B[name] @ self.A[name]


@hookimpl
def avcore_prompts():
    """LoRA under the name ``lora``."""
    return [PromptSpec(name="lora", build=f"{__name__}:LoRA", config=LoRAConfig, paper="arXiv:2106.09685")]


def merged(trunk, part):
    """A copy of a timm ViT with the increments of a part in its weights."""
    model = copy.deepcopy(trunk)
    with torch.no_grad():
        for index, layer in part.layers.items():
            block = model.blocks[int(index)]
            for name in layer.A:
                getattr(block.attn, name).weight += layer.increment(name)
    return model


def main():
    """Train for a step, merge, compare."""
    model = make_model(
        avcore_timm,
        "test_vit",
        listed=["lora"],
        others={"lora": sys.modules[__name__]},
        sets=["parts.lora.rank=2", "audio.frames=48", "audio.mel_bins=32"],
    ).double()
    trained = [parameter for _, parameter in model.parameter_groups()["parts"]]
    optimizer = torch.optim.Adam(trained, lr=0.1)
    batch = make_batch(model)
    model.loss(model(batch), batch).backward()
    optimizer.step()

    pictures = model.front_ends(batch)["visual"].double()
    trunk = merged(model.towers["visual"].trunk.model, model.parts["lora.visual"])
    difference = (model.features(batch).visual.tokens - trunk.forward_features(pictures)).abs().max()
    print(f"{sum(parameter.numel() for parameter in trained)} parameters; merged weights differ by {difference:.1e}")


if __name__ == "__main__":
    main()
