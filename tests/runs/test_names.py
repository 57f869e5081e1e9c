"""A run and an adapter keep their names, whatever is installed after them."""

import importlib
import json
import shutil
import warnings

import pytest
import torch
from installed import LOADERS
from omegaconf import OmegaConf

import avcore
from avcore.config import resolve_config
from avcore.discovery import LoadedPlugin, declarations
from avcore.errors import AVCoreError, PluginError
from avcore.registry import Registry
from avcore.runs.offers import major
from avcore.specs import BackboneSpec, DatasetSpec, FusionSpec, HeadSpec, MethodSpec, PromptSpec, TaskSpec
from avcore.states import parameter_groups, trainable_state


@pytest.fixture
def newcomer(make_plugin):
    """A plugin that offers everything that the toy world does, under the same names."""
    return make_plugin(
        backbones=[BackboneSpec(name="other", build="nowhere:Trunk", presets={"toy": {}})],
        prompts=[PromptSpec(name="rows", build="nowhere:Rows")],
        heads=[HeadSpec(name="class", build="nowhere:Head")],
        tasks=[TaskSpec(name="listen", build="nowhere:Task", head="class")],
        datasets=[DatasetSpec(name="toy-demo", build="nowhere:Files", tasks=("listen",), default_for=("listen",))],
        methods=[MethodSpec(name="rowing", prompts=("rows",)), MethodSpec(name="rows", prompts=("rows",))],
    )


@pytest.fixture
def installed(world, monkeypatch):
    """``installed(name=module, ...)``: these are installed beside the toy world, which has this version."""

    def install(version="0", **modules):
        plugins = [
            LoadedPlugin(distribution=name, version=version, specs=declarations(module), plugin=module)
            for name, module in {"toy-world": world.Plugin(), **modules}.items()
        ]
        registry = Registry(plugins)
        for name in LOADERS:
            monkeypatch.setattr(f"{importlib.import_module(name).__name__}.load_registry", lambda: registry)
        return registry

    return install


def trained(model):
    return {name: value.clone() for name, value in trainable_state(model).items()}


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in trainable_state(model).items())


def test_a_run_says_which_distribution_offered_each_name(finished):
    assert OmegaConf.load(finished.directory / "config.yaml").full_names == {
        "tasks": ["toy-world:listen"],
        "methods": ["toy-world:rowing"],
        "prompts": ["toy-world:rows"],
        "backbones": ["toy-world:toy"],
        "heads": ["toy-world:class"],
        "datasets": ["toy-world:toy-demo"],
    }
    plugins = json.loads((finished.directory / "results.json").read_text())["plugins"]
    assert plugins["backbones"] == {"toy": {"distribution": "toy-world", "version": "0"}}
    assert set(plugins) == {"tasks", "methods", "prompts", "backbones", "heads", "datasets"}


def test_a_finished_run_is_what_it_was_when_its_names_are_offered_twice(finished, installed, newcomer):
    before = finished.results.metrics["test"]
    installed(newcomer=newcomer)
    with pytest.raises(AVCoreError, match=r"'newcomer:toy' or 'toy-world:toy'|'newcomer:listen' or 'toy-world:listen'"):
        avcore.create_model("rowing", task="listen")
    run = avcore.load_run(finished.directory)
    assert run.config == finished.run.config
    assert same(run.model, trained(finished.run.model))
    assert run.evaluate("test") == before


def test_a_run_goes_on_when_its_names_are_offered_twice(start, installed, newcomer):
    run = start(epochs=1, baseline=True)
    installed(newcomer=newcomer)
    again = start(epochs=2, baseline=True, resume=True)  # the same options, whose names have two meanings by now
    assert again.config.train.epochs == 2
    avcore.run(resume=run.directory, epochs=3, quiet=True)
    assert avcore.load_run(run.directory).config.full_names == run.config.full_names


def test_a_configuration_of_a_run_starts_another_with_the_same_parts(start, installed, newcomer, tmp_path):
    run = start(epochs=0)
    installed(newcomer=newcomer)
    again = avcore.run(config=run.directory / "config.yaml", out=tmp_path / "again", quiet=True)
    assert again.config.full_names == run.config.full_names


def test_the_newcomer_is_the_one_asked_for_by_its_full_name(finished, installed, newcomer):
    registry = installed(newcomer=newcomer)
    tree = finished.directory / "config.yaml"
    config = resolve_config(registry, file=tree, visual="newcomer:toy", need_data=False).config
    assert config.visual.backbone == "newcomer:toy"
    assert config.full_names["prompts"] == ("toy-world:rows",)
    assert "backbones" not in config.full_names
    other = resolve_config(registry, file=tree, sets=["data.dataset=newcomer:toy-demo"], need_data=False).config
    assert other.data.dataset == "newcomer:toy-demo"
    own = resolve_config(registry, file=tree, visual="toy-world:toy", need_data=False).config
    assert own.visual == finished.run.config.visual


def test_a_run_whose_plugin_is_gone_says_which(finished, installed, newcomer, monkeypatch):
    registry = Registry.from_modules({"newcomer": newcomer})
    with pytest.raises(AVCoreError, match="The task 'listen' was recorded as that of toy-world, which does not offer"):
        resolve_config(registry, file=finished.directory / "config.yaml")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"things": ["a:b"]}, "'full_names.things' .* is no kind of name"),
        ({"tasks": ["listen"]}, "must be a list of names like 'DISTRIBUTION:NAME'"),
        ({"tasks": "toy-world:listen"}, "must be a list of names like 'DISTRIBUTION:NAME'"),
    ],
)
def test_full_names_that_are_none_are_named(installed, section, message):
    with pytest.raises(AVCoreError, match=message):
        resolve_config(installed(), file={"task": "listen", "method": "rowing", "full_names": section})


# ------------------------------------------------------------------------------------------------------- adapters


@pytest.fixture
def adapter(installed, tmp_path):
    """A model and its adapter, saved when the toy world was alone."""
    installed()
    model = avcore.create_model("rowing", task="listen")
    with torch.no_grad():
        for _, parameter in parameter_groups(model)["parts"] + parameter_groups(model)["head"]:
            parameter.add_(1.0)
    avcore.save_adapter(model, tmp_path / "adapter")
    return model, tmp_path / "adapter"


def test_an_adapter_makes_its_model(adapter):
    model, path = adapter
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = avcore.load_adapter(path)
    assert same(again, trainable_state(model))
    assert again.backbone_digest == model.backbone_digest
    assert again.config == model.config


def test_an_adapter_makes_its_model_when_its_names_are_offered_twice(adapter, installed, newcomer):
    installed(newcomer=newcomer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = avcore.load_adapter(adapter[1])
    assert same(again, trainable_state(adapter[0]))


def test_an_adapter_fits_a_model_of_full_names(adapter, installed, newcomer):
    installed(newcomer=newcomer)
    names = {"task": "toy-world:listen", "visual": "toy-world:toy", "set": ["head.name=toy-world:class"]}
    names["set"].append("data.dataset=toy-world:toy-demo")
    model = avcore.create_model("toy-world:rowing", **names)
    assert model.config.prompts == ("toy-world:rows",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert avcore.load_adapter(adapter[1], model) is model
    assert [value.sum() for value in trained(model).values()] == [v.sum() for v in trained(adapter[0]).values()]


def test_settings_of_the_model_that_an_adapter_makes(adapter):
    with pytest.raises(AVCoreError, match="Make the model with the same backbones and weights"):
        avcore.load_adapter(adapter[1], set=["visual.seed=8"])
    with pytest.raises(AVCoreError, match="made already"):
        avcore.load_adapter(adapter[1], adapter[0], set=["visual.seed=7"])


# ------------------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.1.3", "2"), ("1", "1"), ("0.3.1", "0.3"), ("0.10", "0.10"), ("0", "0.0"), ("0.2.0rc1", "0.2"), ("?", "?")],
)
def test_before_1_a_minor_version_is_a_major_one(version, expected):
    assert major(version) == expected


@pytest.mark.parametrize(("before", "now", "refused"), [
    ("0.1.0", "0.2.0", True),
    ("0.1.0", "0.1.9", False),
    ("0.9", "1.0", True),
    ("1.2", "1.7", False),
    ("1.2", "2.0", True),
])  # fmt: skip
def test_runs_and_adapters_of_another_major_version_are_refused(installed, start, tmp_path, before, now, refused):
    installed(before)
    run = start(epochs=1)
    avcore.save_adapter(run.model, tmp_path / "adapter")
    installed(now)
    whole, what = r"toy-world " + before, r"saved with toy-world .*, which offers .*'rows'.*; here is toy-world "
    calls = {
        "run": lambda: avcore.load_run(run.directory),
        "resume": lambda: avcore.run(resume=run.directory, epochs=2, quiet=True),
        "adapter": lambda: avcore.load_adapter(tmp_path / "adapter"),
        "into": lambda: avcore.load_adapter(tmp_path / "adapter", avcore.create_model("rowing", task="listen")),
    }
    for name, call in calls.items():
        if refused:
            with pytest.raises(PluginError, match=what) as caught:
                call()
            assert whole in str(caught.value), name
            assert f"'toy-world=={major(before)}.*'" in str(caught.value), name
        else:
            call()


def test_runs_and_adapters_of_another_avcore_are_refused(installed, finished, adapter, tmp_path):
    copy = shutil.copytree(finished.directory, tmp_path / "copy")
    for file in (copy / "results.json", adapter[1] / "adapter.json"):
        record = json.loads(file.read_text())
        record["versions"]["avcore"] = "0.0.7"
        file.write_text(json.dumps(record))
    with pytest.raises(PluginError, match=r"The run .* was saved with avcore 0\.0\.7; here is avcore"):
        avcore.load_run(copy)
    with pytest.raises(PluginError, match=r"The adapter .* was saved with avcore 0\.0\.7; here is avcore"):
        avcore.load_adapter(adapter[1])


# ------------------------------------------------------------------------------------------- methods and parts


@pytest.fixture
def shared(fake_modules, make_plugin):
    """``gatex`` is a method of toy-a, with the fusion ``a.mix``, and a fusion of toy-b; toy-c has a method of both."""
    return Registry.from_modules(
        {
            **fake_modules,
            "toy-a": make_plugin(
                fusions=[FusionSpec(name="a.mix", build="a:Mix")],
                methods=[MethodSpec(name="gatex", fusions=("a.mix",))],
            ),
            "toy-b": make_plugin(
                fusions=[FusionSpec(name="gatex", build="b:Gate")],
                methods=[MethodSpec(name="b", fusions=("gatex",))],
            ),
            "toy-c": make_plugin(methods=[MethodSpec(name="c", fusions=("gatex",))]),
        }
    )


CHOICE = "'gatex' is the method of toy-a and the fusion of toy-b: write 'toy-a:gatex' or 'toy-b:gatex'"


def test_a_name_of_a_method_and_of_anothers_part_is_refused(shared):
    with pytest.raises(AVCoreError, match=CHOICE):
        shared.parts_of("gatex", "fusions")
    with pytest.raises(AVCoreError, match=rf"{CHOICE} \(fusions, option fusion\)"):
        resolve_config(shared, task="seg", visual="toy_tiny", fusions="solo+gatex", need_data=False)
    with pytest.raises(AVCoreError, match=rf"{CHOICE} \(fusions, --set fusions=gatex\)"):
        resolve_config(shared, task="seg", visual="toy_tiny", method="m", sets=["fusions=gatex"], need_data=False)


def test_a_shared_name_is_refused_in_the_list_of_a_method_that_offers_neither(shared):
    with pytest.raises(AVCoreError, match=f"Method 'c' lists a name that is not clear. {CHOICE}"):
        resolve_config(shared, task="seg", method="c", visual="toy_tiny", need_data=False)
    with pytest.raises(AVCoreError, match=CHOICE):
        shared.parts_of("c", "fusions")
    assert shared.parts_of("b", "fusions") == ("gatex",)


@pytest.mark.parametrize(("written", "parts"), [("toy-a:gatex", ("a.mix",)), ("toy-b:gatex", ("gatex",))])
def test_the_full_name_chooses_and_is_read_back(shared, written, parts):
    found = resolve_config(shared, task="seg", visual="toy_tiny", fusions=written, need_data=False)
    assert found.config.fusions == parts
    assert resolve_config(shared, file=found.tree(), need_data=False).config == found.config
    # Whoever repeats what the file says means what the file does.
    repeated = resolve_config(shared, file=found.tree(), fusions="+".join(parts), need_data=False)
    assert repeated.config == found.config


def test_a_method_that_lists_its_own_part_of_a_shared_name_is_read_back(shared):
    found = resolve_config(shared, task="seg", method="b", visual="toy_tiny", need_data=False)
    assert found.config.full_names["fusions"] == ("toy-b:gatex",)
    assert resolve_config(shared, file=found.tree(), need_data=False).config == found.config


def test_a_full_name_leaves_the_settings_that_belong_to_the_name(fake_modules, make_plugin):
    def visual(modules, **given):
        registry = Registry.from_modules(modules)
        return resolve_config(registry, method="m", task="seg", need_data=False, **given).config.visual

    rival = make_plugin(backbones=[BackboneSpec(name="rival", build="r:build", presets={"toy_large": {}})])
    plain = visual(fake_modules)
    assert plain.settings.weights == "published"  # of the recipe, which names toy_large
    assert visual(fake_modules, visual="toy-backbones:toy_large") == plain
    assert visual({**fake_modules, "rival": rival}, visual="toy-backbones:toy_large").settings == plain.settings


@pytest.mark.parametrize(("package", "refused"), [("toy-c", True), ("toy-b", False)])
def test_shared_names_in_recipes(fake_modules, make_plugin, tmp_path, monkeypatch, shared, package, refused):
    folder = tmp_path / f"recipes_of_{package.replace('-', '_')}" / "recipes"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "seg.yaml").write_text("settings: {visual: {backbone: toy_tiny}, fusions: gatex}\n")
    monkeypatch.syspath_prepend(tmp_path)
    offered = {"fusions": list(shared.fusions)[-1:]} if package == "toy-b" else {}
    spec = MethodSpec(name="r", prompts=("m.rows",), recipes=folder.parent.name)
    modules = {
        **fake_modules,
        "toy-a": make_plugin(
            fusions=[FusionSpec(name="a.mix", build="a:Mix")], methods=[MethodSpec(name="gatex", fusions=("a.mix",))]
        ),
        "toy-b": make_plugin(fusions=[FusionSpec(name="gatex", build="b:Gate")]),
    }
    modules[package] = make_plugin(methods=[spec], **offered)
    registry = Registry.from_modules(modules)
    if refused:
        with pytest.raises(AVCoreError, match=rf"{CHOICE} \(fusions, recipe r/seg\)"):
            resolve_config(registry, task="seg", method="r", need_data=False)
    else:
        assert resolve_config(registry, task="seg", method="r", need_data=False).config.fusions == ("gatex",)


def test_a_part_that_a_method_of_its_own_distribution_is_called_like_is_read_back(fake_modules, make_plugin):
    wide = make_plugin(
        fusions=[FusionSpec(name="wide", build="w:Wide"), FusionSpec(name="wide.more", build="w:More")],
        methods=[MethodSpec(name="wide", fusions=("wide", "wide.more"))],
    )
    registry = Registry.from_modules({**fake_modules, "toy-wide": wide})
    found = resolve_config(registry, task="seg", method="wide", visual="toy_tiny", need_data=False)
    assert found.config.fusions == ("wide", "wide.more")
    assert resolve_config(registry, file=found.tree(), need_data=False).config == found.config
    alone = {**found.tree(), "method": None, "fusions": ["wide"], "parts": {}}
    assert resolve_config(registry, file=alone, need_data=False).config.fusions == ("wide",)
