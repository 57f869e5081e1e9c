"""Assembly looks at what plugins' classes do at their sites, and says which plugin, part and site it is."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from installed import installed
from torch import Tensor, nn
from toy_rows import Rows

from avcore import create_model
from avcore.cli import main
from avcore.discovery.signatures import check_build, check_overrides
from avcore.errors import AVCoreError, PluginError
from avcore.hookspecs import hookimpl
from avcore.injection import Edit, Edits, Fusion, FusionLayer, Prompt, PromptLayer
from avcore.registry import Registry
from avcore.specs import FusionSpec, HeadSpec, PromptSpec
from avcore.tasks import Dataset, Features, Head, Task
from avcore.testing import ToyBackbones
from avcore.testing.toys import LinearHead, ToyPlugin, at_hand


class FewArguments(Rows):
    def attention(self, x_MND: Tensor) -> Edit:  # type: ignore[override]
        return Edit(rows=self.rows)


class ManyArguments(Rows):
    def mlp(self, x_MND: Tensor, at: Any, gain: float) -> Edit:  # type: ignore[override]
        return Edit()


class NoBlock(Rows):
    def __init__(self, config: Any) -> None:
        nn.Module.__init__(self)


class Misspelt(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width))

    def atention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.rows)


class MisspeltToo(Rows):
    def mlp_ouput(self, out_MND: Tensor, x_MND: Tensor, at: Any) -> Tensor:
        return out_MND


class Idle(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()


class InTheWrongClass(Rows):
    def finish(self, features: Features) -> Features:
        return features


class Adds(Rows):
    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        x_MND += 1
        return Edit(rows=self.rows)


class Divides(Rows):
    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.rows / (1 // (at.T - 2)))


class Refuses(Rows):
    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        raise AVCoreError("Not today: come again.")


class WithoutLayers(Prompt):
    def layr(self, block: Any) -> PromptLayer:
        return Rows(None, block)


class FinishesWithMore(Prompt):
    def layer(self, block: Any) -> PromptLayer:
        return Rows(None, block)

    def finish(self, features: Features, more: int) -> Features:  # type: ignore[override]
        return features


class FinishesInPlace(FinishesWithMore):
    def finish(self, features: Features) -> Features:  # type: ignore[override]
        next(iter(features.streams.values())).pooled.mul_(2)
        return features


class Pair(FusionLayer):
    def __init__(self, config: Any, pair: Any) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def mlp(self, visual_MND: Tensor, audio_MND: Tensor) -> Edits:  # type: ignore[override]
        return Edits(visual=Edit(add=self.gain * visual_MND), audio=Edit(add=self.gain * audio_MND))


class PairOfAPrompt(Pair):
    def mlp(self, x_MND: Tensor, at: Any) -> Edits:  # type: ignore[override]
        return Edits()


class Pairs(Fusion):
    def layer(self, pair: Any, more: Any) -> FusionLayer:  # type: ignore[override]
        return Pair(None, pair)


class Helped(Rows):
    """A function of its own that is like no site, one whose name is like a site's and that takes something else."""

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.scaled(self.project(self.rows)))

    def scaled(self, rows: Tensor) -> Tensor:
        return rows * 2

    def project(self, rows: Tensor) -> Tensor:
        return rows


def registry(part: Any, **further: Any) -> Registry:
    fusion = issubclass(part, Fusion | FusionLayer)
    spec = at_hand(FusionSpec if fusion else PromptSpec, name="mine", thing=part)
    hook = "avcore_fusions" if fusion else "avcore_prompts"
    module = SimpleNamespace(**{hook: hookimpl(lambda: [spec], specname=hook)}, **further)
    return Registry.from_modules({"toys": ToyBackbones(), "task": ToyPlugin(), "avcore-strange": module})


def made(part: Any) -> Any:
    chosen = {"fusions": "mine"} if issubclass(part, Fusion | FusionLayer) else {"prompts": "mine"}
    with installed(registry(part)):
        return create_model(
            task="toy", visual="toy_plain", set=["visual.weights=random", "data.dataset=toy-data"], meta=True, **chosen
        )


@pytest.mark.parametrize(
    ("part", "site", "says"),
    [
        (FewArguments, "attention", "FewArguments.attention(self, x_MND) .*must be attention(self, x_MND, at)"),
        (ManyArguments, "mlp", "must be mlp(self, x_MND, at)"),
        (NoBlock, "", "must be NoBlock(config, block)"),
        (Misspelt, "atention", "is no site of a PromptLayer; did you mean 'attention'? Misspelt overrides no site"),
        (MisspeltToo, "mlp_ouput", "did you mean 'mlp_output'"),
        (Idle, "", "Idle of part 'mine' overrides no site"),
        (InTheWrongClass, "finish", "it is a site of the part"),
        (Adds, "attention", "writes into a tensor that it is given"),
        (Divides, "attention", "failed in 'attention' of part 'mine': ZeroDivisionError"),
        (WithoutLayers, "layr", "did you mean 'layer'"),
        (FinishesWithMore, "finish", "must be finish(self, features)"),
        (FinishesInPlace, "finish", "writes into a tensor that it is given"),
        (Pair, "mlp", "must be mlp(self, visual_MND, audio_MND, at)"),
        (PairOfAPrompt, "mlp", "must be mlp(self, visual_MND, audio_MND, at)"),
        (Pairs, "layer", "must be layer(self, pair)"),
    ],
)
def test_what_is_wrong_at_a_site_is_told_with_plugin_part_and_site(part: Any, site: str, says: str) -> None:
    with pytest.raises(PluginError) as caught:
        made(part)
    told = str(caught.value)
    assert told.startswith("Plugin avcore-strange 0")
    assert "part 'mine'" in told
    assert not site or f"'{site}'" in told
    for one in says.split(".*"):
        assert one in told


@pytest.mark.parametrize("part", [Rows, Helped])
def test_sound_parts_pass_and_keep_nothing_of_being_watched(part: Any) -> None:
    model = made(part)
    layer = model.instances[0].module.layers["0"]
    assert "attention" not in vars(layer)


def test_a_refusal_of_a_part_is_passed_on_as_it_is() -> None:
    with pytest.raises(AVCoreError, match=r"^Not today: come again\.$"):
        made(Refuses)


@pytest.mark.parametrize(("part", "code", "trace"), [(FewArguments, 2, False), (Divides, 1, True)])
def test_the_command_line_tells_it_in_one_line(part: Any, code: int, trace: bool) -> None:
    found = registry(part)
    with installed(found) as patch:
        patch.setattr("avcore.registry.load_registry", lambda: found)
        asked = ["params", "--task", "toy", "--prompts", "mine", "--visual", "toy_plain"]
        result = CliRunner().invoke(main, [*asked, "--set", "visual.weights=random", "--set", "data.dataset=toy-data"])
    assert result.exit_code == code
    *before, last = result.stderr.splitlines()
    assert last.startswith("avcore: error: Plugin avcore-strange 0 failed in 'attention' of part 'mine': ")
    assert any(line.startswith("Traceback") for line in before) is trace


class OldHead(LinearHead):
    def loss(self, output: Mapping[str, Tensor], batch: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return {}


def test_a_head_whose_functions_cannot_be_called_is_told_too() -> None:
    spec = at_hand(HeadSpec, name="old", thing=OldHead)
    sets = ["visual.weights=random", "data.dataset=toy-data", "head.name=old"]
    with (
        installed(registry(Rows, avcore_heads=hookimpl(lambda: [spec], specname="avcore_heads"))),
        pytest.raises(PluginError, match=r"Plugin avcore-strange 0 failed in 'loss' of head 'old'.*progress\)"),
    ):
        create_model(task="toy", visual="toy_plain", prompts="none", fusions="none", set=sets, meta=True)


class OldReader(Dataset):
    def inputs(self, clip: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return {}


class OldTask(Task):
    @staticmethod
    def describe(prediction: Any) -> str:  # type: ignore[override]
        return ""

    def metrics(self) -> Any:  # type: ignore[override]
        return None


def test_readers_and_tasks_are_looked_at_alike() -> None:
    with pytest.raises(PluginError, match=r"'inputs' of data set 'x': .*it must be inputs\(self, clip, epoch\)"):
        check_overrides(OldReader, Dataset, plugin="a 1", of="data set 'x'")
    with pytest.raises(PluginError, match=r"'metrics' of task 'x': .*it must be metrics\(self, protocol\)"):
        check_overrides(OldTask, Task, plugin="a 1", of="task 'x'")
    check_overrides(LinearHead, Head, plugin="a 1", of="head 'x'")


def test_what_is_made_otherwise_than_it_is_written_is_told() -> None:
    def build(settings: Any, name: str) -> None:
        return None

    with pytest.raises(PluginError, match=r"it must be build\(settings, \*, name, preset\)"):
        check_build(build, ("settings",), keywords=("name", "preset"), plugin="a 1", of="backbone 'x'")
    check_build(build, ("settings",), keywords=("name",), plugin="a 1", of="backbone 'x'")
