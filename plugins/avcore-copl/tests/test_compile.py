"""A pair of blocks with CoPL's parts compiles to one graph and computes the same."""

import pytest
import torch

import avcore_copl
import avcore_timm
from avcore.model import AVModel
from avcore.testing.graphs import capture, tokens_for
from avcore.testing.toys import make_model

SETS = (
    "audio.frames=48",
    "audio.mel_bins=32",
    "parts.copl.rows.length=3",
    "parts.copl.coupling.length=3",
    "parts.copl.coupling.last=2",
)


def make(*listed: str, sets: tuple[str, ...] = ()) -> AVModel:
    others = {"avcore-copl": avcore_copl}
    return make_model(avcore_timm, "test_vit", listed=listed, others=others, sets=sets, on_meta_first=False)


@pytest.mark.parametrize(
    "setting",
    ["frame_rows=own", "frame_rows=all", "frame_rows=none", "global_flow=carry", "global_scope=input"],
)
def test_a_pair_compiles_with_equal_results_and_gradients(setting: str) -> None:
    model = make("copl.rows", "copl.coupling", sets=(*SETS, f"parts.copl.rows.{setting}"))
    own = [parameter for part in model.parts.values() for parameter in part.parameters()]
    x = tokens_for(model, -1)
    made = capture(model.steps[-1], x).output
    expected = model.steps[-1](dict(x), {})
    for stream in x:
        torch.testing.assert_close(made[0][stream], expected[0][stream])
    assert made[1].keys() == expected[1].keys()

    def gradients(streams: dict[str, torch.Tensor]) -> list[torch.Tensor | None]:
        loss = sum(tokens.square().mean() for tokens in streams.values())
        return list(torch.autograd.grad(loss, own, allow_unused=True))

    for found, wanted in zip(gradients(made[0]), gradients(expected[0]), strict=True):
        assert (found is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(found, wanted)


def test_each_part_has_nodes_where_it_acts_and_none_elsewhere() -> None:
    bare, rows = make(sets=SETS[:2]), make("copl.rows", sets=SETS[:3])
    both = make("copl.rows", "copl.coupling", sets=SETS)
    nodes = {
        name: [capture(model.steps[index], tokens_for(model, index)).nodes for index in (0, 5)]
        for name, model in (("bare", bare), ("rows", rows), ("both", both))
    }
    assert nodes["bare"][0] == nodes["bare"][1] < nodes["rows"][0] == nodes["rows"][1]
    # The coupling acts in the last two pairs.
    assert nodes["both"][0] == nodes["rows"][0] < nodes["both"][1]
