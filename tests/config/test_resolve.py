from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avcore.config import Resolved, resolve_config
from avcore.config.leaves import flatten
from avcore.errors import AVCoreError
from avcore.registry import Registry
from avcore.specs import HeadSpec
from avcore.testing.toys import at_hand


def resolved(registry: Registry, **given: Any) -> Resolved:
    return resolve_config(registry, **{"method": "m", "task": "seg", **given})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A root for the data set that is no demo: its defaults leave the recipe alone."""
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def test_later_layers_win(fake_registry: Registry, files: Path, tmp_path: Path) -> None:
    def epochs(**given: Any) -> tuple[int, str]:
        found = resolved(fake_registry, **given)
        return found.config.train.epochs, found.origins["train.epochs"]

    file = tmp_path / "run.yaml"
    file.write_text("train: {epochs: 30}\n")
    assert epochs(method="none", data=files, visual="toy_tiny") == (5, "task seg")
    assert epochs(data=files) == (15, "recipe m/seg")
    assert epochs(data=files, recipe="large", visual="toy_tiny") == (99, "recipe m/seg.large")
    assert epochs() == (2, "dataset seg-demo")
    assert epochs(file=file) == (30, f"file {file}")
    assert epochs(file=file, options={"train.epochs": 40}) == (40, "option epochs")
    assert epochs(file=file, options={"train.epochs": 40}, sets=["train.epochs=1", "train.epochs=50"]) == (
        50,
        "--set train.epochs=50",
    )


def test_what_a_head_brings_follows_from_its_settings_and_everything_else_goes_before_it(
    fake_modules: dict[str, Any], fake_registry: Registry, make_plugin: Callable[..., Any], files: Path
) -> None:
    points = fake_registry.heads["seg.points"]
    brought: dict[str, Any] = {}

    def defaults(settings: Any) -> dict[str, Any]:
        unknown = {"visual.no_backbone_has_it": True}
        return {"task_options.weight": 0.1 * settings.points, "train.epochs": 77, **unknown, **brought}

    made = at_hand(HeadSpec, name="seg.points", thing=points, config=points.config, defaults=defaults)
    registry = Registry.from_modules({**fake_modules, "toy-head": make_plugin(heads=[made])})

    def weight(*sets: str) -> tuple[float, str]:
        found = resolved(registry, data=files, sets=["head.name=toy-head:seg.points", *sets])
        assert found.config.train.epochs == 15
        return found.config.task_options.weight, found.origins["task_options.weight"]

    assert weight() == (0.9, "head toy-head:seg.points")
    assert weight("head.points=3") == (pytest.approx(0.3), "head toy-head:seg.points")
    assert weight("task_options.weight=2") == (2, "--set task_options.weight=2")
    assert resolved(registry, data=files).config.task_options.weight == 0.5
    for key, message in (("head.points", "may not contain 'head.points'"), ("task", "may not contain 'task'")):
        brought[key] = 1
        with pytest.raises(AVCoreError, match=message):
            weight()
        del brought[key]


def test_every_leaf_has_an_origin(fake_registry: Registry, files: Path) -> None:
    found = resolved(fake_registry, data=files)
    assert set(found.origins) == set(flatten(found.tree()))
    assert found.origins["optim.eps"] == "default"
    assert found.origins["parts.m.rows.length"] == "recipe m/seg"
    assert found.origins["prompts"] == "method m"
    assert found.origins["head.name"] == "task seg"
    assert found.origins["method"] == "option method"
    assert found.recipe is not None
    assert found.recipe.published


def test_typed_sections(fake_registry: Registry, files: Path) -> None:
    config = resolved(fake_registry, task="segment", data=files).config
    assert (config.task, config.method) == ("seg", "m")
    assert (config.prompts, config.fusions) == (("m.rows",), ("m.mix",))
    assert config.parts["m.rows"].length == 20
    assert config.parts["m.mix"].reduction == 8
    assert config.visual.backbone == "toy_large"
    assert config.visual.settings.weights == "published"
    assert (config.head.name, config.head.settings.width) == ("seg.mask", 128)
    assert config.task_options.weight == 0.5
    assert config.optim.lr == 3e-4


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"prompts": "none", "fusions": "solo", "method": None},
        {"audio": "swin_a", "sets": ["parts.m.rows.streams=visual", "optim.clip_norm=1", "optim.lr=1e-9"]},
        {"method": "none", "streams": "visual", "sets": ["data.cache=here", "train.evaluate=[test, test_swapped]"]},
    ],
)
def test_the_tree_reproduces_the_configuration(fake_registry: Registry, tmp_path: Path, given: dict[str, Any]) -> None:
    first = resolved(fake_registry, **given)
    file = tmp_path / "config.yaml"
    file.write_text(first.yaml())
    second = resolve_config(fake_registry, file=file)
    assert second.config == first.config
    assert second.tree() == first.tree()
    assert resolve_config(fake_registry, file=first.tree()).config == first.config


def test_dotted_keys_and_null_sections_in_a_file(fake_registry: Registry) -> None:
    tree = {"task": "seg", "method": "m", "optim.lr": 0.5, "audio": None, "parts": {"m.rows": {"length": 3}}}
    config = resolve_config(fake_registry, file=tree).config
    assert config.optim.lr == 0.5
    assert config.parts["m.rows"].length == 3


# --------------------------------------------------------------------------------------------------------------------
# Which parts


def test_prompts_and_fusion_replace_those_of_the_method(fake_registry: Registry) -> None:
    config = resolved(fake_registry, prompts="m+m.deep").config
    assert (config.prompts, config.fusions) == (("m.rows", "m.deep"), ("m.mix",))
    config = resolved(fake_registry, fusions="none", sets=["prompts=[m.deep]"]).config
    assert (config.prompts, config.fusions) == (("m.deep",), ())
    assert set(config.parts) == {"m.deep"}
    with pytest.raises(AVCoreError, match=r"Method 'solo' has no prompts.*\(prompts, option prompts\)"):
        resolved(fake_registry, prompts="solo")


def test_without_a_method_there_is_no_recipe(fake_registry: Registry) -> None:
    found = resolved(fake_registry, method=None, prompts="m")
    assert (found.config.method, found.config.prompts, found.config.fusions) == (None, ("m.rows",), ())
    assert found.config.parts["m.rows"].length == 10
    assert found.recipe is None
    assert resolved(fake_registry, method="none").config.prompts == ()
    with pytest.raises(AVCoreError, match=r"give --plugin NAME.*Methods: m, solo"):
        resolved(fake_registry, method=None)
    with pytest.raises(AVCoreError, match="Recipe 'large' needs a method"):
        resolved(fake_registry, method="none", recipe="large")


def test_on_a_demo_the_method_says_what_its_parts_need(fake_registry: Registry, files: Path, tmp_path: Path) -> None:
    def reduction(**given: Any) -> tuple[int, str]:
        found = resolved(fake_registry, **given)
        return found.config.parts["m.mix"].reduction, found.origins["parts.m.mix.reduction"]

    assert reduction() == (2, "recipe m/seg.demo")
    assert reduction(data=files) == (8, "recipe m/seg")
    assert reduction(recipe="large") == (2, "recipe m/seg.demo")
    assert reduction(sets=["parts.m.mix.reduction=3"]) == (3, "--set parts.m.mix.reduction=3")
    assert reduction(method=None, fusions="m") == (4, "default")
    found = resolved(fake_registry)
    assert found.recipe is not None
    assert found.recipe.name == "m/seg"


def test_a_prompt_can_be_put_into_one_stream(fake_registry: Registry) -> None:
    config = resolved(fake_registry, sets=["parts.m.rows.streams=audio"]).config
    assert config.part_streams == {"m.rows": "audio"}
    with pytest.raises(AVCoreError, match=r"'parts.m.rows.streams' is 'sound'.*'visual', 'audio', 'both'"):
        resolved(fake_registry, sets=["parts.m.rows.streams=sound"])
    with pytest.raises(AVCoreError, match=r"Unknown key 'parts.m.mix.streams'"):
        resolved(fake_registry, sets=["parts.m.mix.streams=audio"])


def test_settings_of_parts_that_are_not_listed(fake_registry: Registry, files: Path) -> None:
    with pytest.raises(AVCoreError, match=r"'parts.m.mix.reduction' \(--set .*\) belongs to no part.*: m.rows\."):
        resolved(fake_registry, fusions="none", sets=["parts.m.mix.reduction=2"])
    whole = resolved(fake_registry, data=files).tree()
    config = resolve_config(fake_registry, file=whole, fusions="none").config
    assert set(config.parts) == {"m.rows"}
    assert config.parts["m.rows"].length == 20
    with pytest.raises(AVCoreError, match=r"Unknown key 'parts.m.rows.lenght'.*Did you mean 'parts.m.rows.length'"):
        resolved(fake_registry, sets=["parts.m.rows.lenght=2"])


# --------------------------------------------------------------------------------------------------------------------
# Settings belong to what they were given for


def test_settings_beside_a_backbone_go_with_it(fake_registry: Registry, files: Path) -> None:
    config = resolved(fake_registry, data=files, visual="toy_tiny").config
    assert config.visual.settings.weights == "hub"
    assert config.audio.settings.patch == "one"
    again = resolved(fake_registry, data=files, visual="toy_large").config
    assert again.visual.settings.weights == "published"


def test_sound_shares_the_trunk_or_has_its_own(fake_registry: Registry, files: Path) -> None:
    shared = resolved(fake_registry, data=files).config.audio
    assert (shared.backbone, shared.settings.patch) == (None, "one")
    own = resolved(fake_registry, data=files, audio="swin_a", sets=["audio.window=8"]).config.audio
    assert (own.backbone, own.settings.window) == ("swin_a", 8)
    tree = {"audio": {"backbone": "swin_a", "window": 3}}
    back = resolved(fake_registry, data=files, file=tree, audio="shared").config.audio
    assert (back.backbone, back.settings.patch) == (None, "one")
    with pytest.raises(AVCoreError, match=r"Unknown key 'audio.window' \(--set audio.window=8\)"):
        resolved(fake_registry, data=files, sets=["audio.window=8"])


def test_another_head_method_or_task_leaves_the_earlier_settings_behind(fake_registry: Registry, files: Path) -> None:
    assert resolved(fake_registry, data=files, sets=["head.name=seg.points"]).config.head.settings.points == 9
    whole = resolved(fake_registry, data=files).tree()
    other = resolve_config(fake_registry, file=whole, method="solo").config
    assert (other.method, other.prompts, other.fusions) == ("solo", (), ("solo",))
    task = resolve_config(fake_registry, file=whole, task="cls", need_data=False).config
    assert (task.head.name, task.data.dataset, task.data.root) == ("seg.points", None, None)


def test_weights_that_exist_become_absolute(
    fake_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").touch()
    config = resolved(fake_registry, sets=["visual.weights=w.safetensors", "audio.weights=random"]).config
    assert config.visual.settings.weights == str(tmp_path / "w.safetensors")
    assert config.audio.settings.weights == "random"


# --------------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": None}, r"No task: give --task NAME. Available: cls, seg"),
        ({"task": "sge"}, r"Unknown task 'sge'. Did you mean 'seg'"),
        ({"method": "mm"}, r"Unknown method 'mm'"),
        ({"recipe": "huge"}, r"no recipe 'huge'"),
        ({"streams": "vision"}, r"'streams' is 'vision' \(option streams\); it must be one of"),
        ({"visual": "nope"}, r"Unknown backbone 'nope'"),
        ({"options": {"device": "gpu"}}, r"device must be auto, cpu, cuda or cuda:N, not 'gpu' \(option device\)"),
        ({"options": {"seed": -1}}, r"seed must be a whole number from 0.* \(option seed\)"),
        ({"sets": ["fusion=m"]}, r"Unknown key 'fusion' \(--set fusion=m\). Did you mean 'fusions'"),
        ({"sets": ["lr=1"]}, r"Unknown key 'lr' \(--set lr=1\). Did you mean 'optim.lr'\?"),
        ({"sets": ["visual.wieghts=x"]}, r"Unknown key 'visual.wieghts' \(--set .*\). Did you mean 'visual.weights'"),
        ({"sets": ["parts.m.mix.lr_scale=-1"]}, r"parts.m.mix.lr_scale must be 0 or more and finite, not -1 \(--set"),
        ({"sets": ["parts.m.rows.lr_scale=fast"]}, r"'parts.m.rows.lr_scale' is 'fast'.*must be a number"),
        ({"sets": ["train.sampler=balanced"]}, r"train: balance and sampler=balanced go together: balance names"),
        ({"sets": ["train.balance=labels"]}, r"train.balance and sampler=balanced go together"),
        ({"sets": ["train.average=epochs"]}, r"train: average_epochs and average=epochs go together"),
        (
            {"sets": ["train.average=epochs", "train.average_epochs=[9, 8]"]},
            r"train.average_epochs must be the first and",
        ),
        ({"sets": ["train.average_decay=1"]}, r"train.average_decay must be 0 or more and below 1, not 1.0"),
        ({"sets": ["optim.lr=-1"]}, r"optim.lr must be 0 or more, not -1.0 \(--set optim.lr=-1\)"),
        ({"sets": ["optim.optimizer=lion"]}, r"'optim.optimizer' is 'lion'.*one of 'adam', 'adamw', 'sgd'"),
        ({"sets": ["train.epochs=1.5"]}, r"'train.epochs' is 1.5 .*a whole number"),
        ({"sets": ["parts.m.rows.length=0"]}, r"parts.m.rows.length must be 1 or more, not 0 \(--set"),
        ({"sets": ["data.wokers=1"]}, r"Unknown key 'data.wokers'.*Did you mean 'data.workers'"),
        (
            {"sets": ["data.drop=sound:0.3"]},
            r"data.drop must be STREAM:SHARE of .*'sound:0.3' \(--set",
        ),
        ({"sets": ["data.drop=audio:0.3,audio:0.1"]}, r"data.drop must be STREAM:SHARE"),
        ({"sets": ["data.drop=audio:-1"]}, r"data.drop must be STREAM:SHARE"),
        ({"sets": ["data.drop=audio"]}, r"data.drop must be STREAM:SHARE"),
        ({"sets": ["data.drop=audio:0"]}, r"data.drop must be shares above 0 that add up to 1 at most"),
        ({"sets": ["data.drop=audio:0.6,visual:0.6"]}, r"data.drop must be shares above 0 that add up to 1 at most"),
        ({"sets": ["data.drop=audio:0.6"], "streams": "visual"}, r"data.drop must be of streams=visual alone"),
        (
            {"sets": ["data.drop=audio:0.6", "train.augment.mix.p=0.5"]},
            r"data.drop must be without audio where train.augment.mix",
        ),
        ({"sets": ["head.wdth=1"]}, r"Unknown key 'head.wdth'"),
        ({"sets": ["visual=toy_tiny"]}, r"'visual' is a section"),
        ({"sets": ["seed"]}, r"--set seed: write KEY=VALUE"),
        ({"sets": ["seed=["]}, r"The value of --set seed=\[ is not valid YAML"),
        ({"file": "/nowhere/run.yaml"}, r"configuration file '/nowhere/run.yaml' cannot be read: No such file"),
        ({"file": {"train": {"epoch": 1}}}, r"Unknown key 'train.epoch' \(given tree\). Did you mean 'train.epochs'"),
    ],
)
def test_mistakes_name_the_key_and_its_layer(fake_registry: Registry, given: dict[str, Any], message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        resolved(fake_registry, **given)


def test_a_recipe_may_not_choose_what_chooses_it(fake_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from avcore.config import Recipe

    def recipe(settings: dict[str, Any]) -> None:
        made = Recipe(method="m", task="seg", settings=settings)
        monkeypatch.setattr("avcore.config.resolve.load_recipe", lambda *_: made)

    recipe({"data": {"root": "/x"}})
    with pytest.raises(AVCoreError, match=r"recipe m/seg may not contain 'data.root'"):
        resolved(fake_registry)
    recipe({"visual": {"wieghts": "x"}})
    with pytest.raises(AVCoreError, match=r"Unknown key 'visual.wieghts' \(recipe m/seg\)"):
        resolved(fake_registry)
    recipe({"parts": {"m.rws": {"length": 1}}})
    with pytest.raises(AVCoreError, match=r"'parts.m.rws.length' \(recipe m/seg\) belongs to no part"):
        resolved(fake_registry)
    # As a data set does for a method that is not installed.
    recipe({"parts": {"elsewhere.rows": {"length": 1}}})
    assert "elsewhere.rows" not in resolved(fake_registry).config.parts


def test_no_backbone_is_an_error(fake_registry: Registry, files: Path) -> None:
    with pytest.raises(AVCoreError, match=r"No backbone: give --visual NAME. Available: swin_a, toy_large, toy_tiny"):
        resolved(fake_registry, method="solo", data=files)


def test_sound_alone_needs_no_backbone_of_pictures(fake_registry: Registry, files: Path) -> None:
    config = resolved(fake_registry, method="solo", data=files, streams="audio", audio="swin_a").config
    assert (config.visual.backbone, config.audio.backbone) == (None, "swin_a")
    with pytest.raises(AVCoreError, match=r"No backbone: give --audio NAME"):
        resolved(fake_registry, method="solo", data=files, streams="audio")
    with pytest.raises(AVCoreError, match=r"No backbone: give --visual NAME"):
        resolved(fake_registry, method="solo", data=files, audio="swin_a")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("optm.lr=1", r"Unknown key 'optm.lr' \(--set optm.lr=1\). Did you mean 'optim.lr'\? Keys: task, method"),
        ("partz.m.rows.length=1", r"Unknown key 'partz.m.rows.length' .*Did you mean 'parts.m.rows.length'\?"),
        ("parts.m.row.length=1", r"'parts.m.row.length' \(--set .*Did you mean 'parts.m.rows.length'\? Its parts: m.r"),
        ("epoch=1", r"Unknown key 'epoch' \(--set epoch=1\). Did you mean 'train.epochs'\?"),
        ("zzz.y=1", r"Unknown key 'zzz' \(--set zzz.y=1\). Keys: task"),
        ("head.name=seg.msk", r"head 'seg.msk'. Did you mean 'seg.mask'\?.*\(head.name, --set head.name=seg.msk\)"),
        ("visual.backbone=xx", r"Unknown backbone 'xx'.*\(visual.backbone, --set visual.backbone=xx\)"),
        ("data.dataset=seg-fils", r"Did you mean 'seg-files'\?.*\(data.dataset, --set data.dataset=seg-fils\)"),
        ("method=n", r"Unknown method 'n'.*\(method, --set method=n\)"),
        ("task=sag", r"Unknown task 'sag'. Did you mean 'seg'\?.*\(task, --set task=sag\)"),
        ("optim=1", r"'optim' is a section \(--set optim=1 gives it 1\); set a key in it, optim.KEY: 'avcore config"),
        ("train.epochs=-1", r"train.epochs must be 0 or more, not -1 \(--set train.epochs=-1\)"),
        ("optim.lr=.inf", r"optim.lr must be finite, not inf \(--set optim.lr=.inf\)"),
    ],
)
def test_a_mistake_names_key_layer_and_what_would_be_right(fake_registry: Registry, written: str, message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        resolved(fake_registry, sets=[written])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("/a #3", "/a #3"),
        ("/a#3", "/a#3"),
        ('"/a #3"', "/a #3"),
        ("/videos\udce9", "/videos\udce9"),
    ],
)
def test_a_value_is_kept_whole(fake_registry: Registry, written: str, value: str) -> None:
    assert str(resolved(fake_registry, sets=[f"data.cache={written}"]).config.data.cache) == value


def test_a_value_that_begins_like_a_comment_is_kept(fake_registry: Registry) -> None:
    with pytest.raises(AVCoreError, match="Unknown task '#3'"):
        resolved(fake_registry, sets=["task=#3"])


def test_a_path_that_no_file_can_hold_is_named(fake_registry: Registry) -> None:
    with pytest.raises(AVCoreError, match=r"A setting is '/videos.udce9', which is no UTF-8"):
        resolved(fake_registry, sets=["data.cache=/videos\udce9"]).yaml()
