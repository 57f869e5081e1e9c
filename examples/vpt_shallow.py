"""VPT-shallow (Jia et al. 2022, arXiv:2203.12119) as a prompt part: rows that flow through all blocks.

`python examples/vpt_shallow.py` compares it with rows joined to the tokens by hand.
"""

import sys
from dataclasses import dataclass

import torch
from torch import nn

import avcore_timm
from avcore import Edit, Prompt, PromptLayer, PromptSpec, hookimpl
from avcore.testing.toys import make_batch, make_model


@dataclass(frozen=True, kw_only=True)
class ShallowConfig:
    """How many rows, and how they begin."""

    length: int = 10  # rows
    std: float = 0.02  # of the normal initialisation


class VPTShallow(Prompt):
    """Equation 4: rows enter with the tokens of the first block and leave with those of the last."""

    def __init__(self, config, stream):
        super().__init__(config, stream)
        self.rows = nn.Parameter(torch.randn(config.length, stream.width) * config.std)

    def layer(self, block):
        """A layer in every block; it has no parameters of its own."""
        return Carry()


class Carry(PromptLayer):
    """Sends rows through its block."""

    def attention(self, x_MND, at):
        """The part's rows in the first block; then what the block before made of them."""
        return Edit(carry=at.part.rows if at.carried is None else at.carried)


@hookimpl
def avcore_prompts():
    """VPT-shallow under the name ``vpt_shallow``."""
    build = f"{__name__}:VPTShallow"
    return [PromptSpec(name="vpt_shallow", build=build, config=ShallowConfig, paper="arXiv:2203.12119")]


def by_hand(trunk, pictures_M3YX, rows_RD):
    """The tokens that a timm ViT makes of pictures with rows behind its tokens."""
    x_MND = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pictures_M3YX)))
    tokens = x_MND.shape[1]
    x_MND = trunk.blocks(torch.cat([x_MND, rows_RD.expand(len(x_MND), -1, -1)], dim=1))
    return trunk.norm(x_MND)[:, :tokens]


def main():
    """Compare the two ways."""
    model = make_model(
        avcore_timm,
        "test_vit",
        listed=["vpt_shallow"],
        others={"vpt_shallow": sys.modules[__name__]},
        sets=["parts.vpt_shallow.length=5", "audio.frames=48", "audio.mel_bins=32"],
    ).double()
    batch = make_batch(model)
    pictures = model.front_ends(batch)["visual"].double()
    part = model.parts["vpt_shallow.visual"]
    expected = by_hand(model.towers["visual"].trunk.model, pictures, part.rows)
    difference = (model.features(batch).visual.tokens - expected).abs().max()
    print(f"{part.rows.numel()} parameters in each stream; rows joined by hand differ by {difference:.1e}")


if __name__ == "__main__":
    main()
