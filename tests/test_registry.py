from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avcore.config import resolve_config
from avcore.discovery import LoadedPlugin
from avcore.errors import AVCoreError
from avcore.registry import NEAR, Registry, load_registry
from avcore.specs import BackboneSpec, DatasetSpec, MethodSpec, PromptSpec

MakePlugin = Callable[..., Any]


def test_look_up_by_name(fake_registry: Registry) -> None:
    assert fake_registry.prompts["m.rows"].build == "toy.m:Rows"
    assert "m.rows" in fake_registry.prompts
    assert "m.mix" not in fake_registry.prompts
    assert fake_registry.prompts.names() == ["m.deep", "m.rows", "segment_embedding"]
    assert fake_registry.prompts.origin("m.rows") == "toy-m"
    assert fake_registry.part("solo") is fake_registry.fusions["solo"]


def test_the_core_is_in_every_registry_as_one_that_offers_parts(make_plugin: MakePlugin) -> None:
    registry = Registry.from_modules({})
    assert registry.prompts.origin("segment_embedding") == "avcore"
    assert [plugin.distribution for plugin in registry.plugins] == ["avcore"]
    rival = make_plugin(prompts=[PromptSpec(name="segment_embedding", build="rival:Rows")])
    registry = Registry.from_modules({"rival": rival})
    with pytest.raises(AVCoreError, match="'avcore:segment_embedding' or 'rival:segment_embedding'"):
        registry.prompts["segment_embedding"]


def test_unknown_names_get_the_near_miss_and_the_list(fake_registry: Registry) -> None:
    with pytest.raises(
        AVCoreError, match=r"Unknown prompt 'm.row'. Did you mean 'm.rows'\? Available: m.deep, m.rows, segment_"
    ):
        fake_registry.prompts["m.row"]


def test_an_unknown_backbone_gets_presets_near_it_first(make_plugin: MakePlugin) -> None:
    presets = {f"swin_{size}_window{window}": {} for size in ("tiny", "base", "large") for window in (7, 12)}
    swin = BackboneSpec(name="toyswin", build="toy:build", presets=presets)
    other = BackboneSpec(name="toyvit", build="toy:build", presets={"vit_a": {}})
    registry = Registry.from_modules({"toy": make_plugin(backbones=[swin, other])})
    with pytest.raises(AVCoreError) as caught:
        registry.backbones.find("swin_base_x")
    nearest = str(caught.value).partition("Nearest presets: ")[2].partition(". Families")[0].split(", ")
    assert len(nearest) == NEAR
    assert set(nearest[:2]) == {"swin_base_window7", "swin_base_window12"}
    assert "vit_a" not in nearest
    assert str(caught.value).endswith(": toyswin, toyvit.")


def test_unknown_names_mention_broken_and_blocked_plugins() -> None:
    plugins = [
        LoadedPlugin(distribution="toy-bad", version="1", state="broken", error="OSError: x", traceback="Traceback: y"),
        LoadedPlugin(distribution="toy-off", version="1", state="blocked", error="blocked by --block"),
    ]
    with pytest.raises(AVCoreError, match=r"toy-bad \(OSError: x\).*toy-off.*avcore plugins doctor") as caught:
        Registry(plugins).prompts["bad.rows"]
    assert caught.value.__notes__ == ["Plugin toy-bad is broken:\nTraceback: y"]


def test_aliases_of_tasks(fake_registry: Registry) -> None:
    assert fake_registry.tasks["segment"].name == "seg"
    assert fake_registry.tasks.key("segment") == "seg"
    assert fake_registry.tasks.names() == ["cls", "seg"]


def test_a_name_of_two_distributions_fails_when_asked_for(
    fake_modules: dict[str, Any], make_plugin: MakePlugin
) -> None:
    twin = make_plugin(prompts=[PromptSpec(name="m.rows", build="twin:Rows")])
    registry = Registry.from_modules({**fake_modules, "twin": twin})
    with pytest.raises(AVCoreError, match=r"offered by toy-m and by twin: write 'toy-m:m.rows' or 'twin:m.rows'"):
        registry.prompts["m.rows"]
    assert registry.prompts["twin:m.rows"].build == "twin:Rows"
    assert registry.prompts.key("twin:m.rows") == "twin:m.rows"
    assert registry.prompts.key("toy-m:m.deep") == "m.deep"
    assert registry.parts_of("twin:m.rows", "prompts") == ("twin:m.rows",)


def test_a_method_means_the_parts_of_its_own_distribution(
    fake_modules: dict[str, Any], make_plugin: MakePlugin, tmp_path: Path
) -> None:
    twin = make_plugin(
        prompts=[PromptSpec(name="m.rows", build="twin:Rows")],
        methods=[MethodSpec(name="m", prompts=("m.rows", "m.deep"))],
    )
    registry = Registry.from_modules({**fake_modules, "twin": twin})
    assert registry.parts_of("toy-m:m", "prompts") == ("toy-m:m.rows",)
    assert registry.parts_of("twin:m", "prompts") == ("twin:m.rows", "m.deep")
    # The recipe of toy-m:m sets parts.m.rows.length to 20.
    files = resolve_config(registry, method="toy-m:m", task="seg", data=tmp_path, need_data=False)
    assert files.config.prompts == ("toy-m:m.rows",)
    assert files.config.parts["toy-m:m.rows"].length == 20
    again = resolve_config(registry, file=files.tree(), need_data=False)
    assert again.config == files.config


def test_backbones_are_found_by_preset_family_and_pattern(fake_registry: Registry) -> None:
    family = fake_registry.backbones["toyvit"]
    assert fake_registry.backbones.find("toy_tiny") == (family, {"width": 8})
    assert fake_registry.backbones.find("toy-backbones:toy_tiny") == (family, {"width": 8})
    assert fake_registry.backbones.find("toy_other") == (family, None)
    assert fake_registry.backbones.find("toyvit") == (family, None)
    with pytest.raises(AVCoreError, match="Did you mean 'swin_a'"):
        fake_registry.backbones.find("swin_b")


def test_the_longer_pattern_wins_and_equal_ones_are_ambiguous(make_plugin: MakePlugin) -> None:
    def family(name: str, pattern: str) -> Any:
        return make_plugin(backbones=[BackboneSpec(name=name, build="a:b", patterns=(pattern,))])

    registry = Registry.from_modules({"a": family("one", "vit_*"), "b": family("two", "vit_clip_*")})
    assert registry.backbones.find("vit_clip_base")[0].name == "two"
    registry = Registry.from_modules({"a": family("one", "vit_*"), "b": family("two", "vit*_")})
    assert registry.backbones.find("vit_base")[0].name == "one"
    registry = Registry.from_modules({"a": family("one", "vit_*"), "b": family("two", "vit_*")})
    with pytest.raises(AVCoreError, match="by a and by b"):
        registry.backbones.find("vit_base")


@pytest.mark.parametrize(
    ("written", "kind", "parts"),
    [
        ("none", "prompts", ()),
        ("m", "prompts", ("m.rows",)),
        ("m", "fusions", ("m.mix",)),
        ("m.deep + m", "prompts", ("m.deep", "m.rows")),
        (("m", "m.rows"), "prompts", ("m.rows",)),
        ((), "fusions", ()),
        ("solo", "fusions", ("solo",)),
    ],
)
def test_parts_by_name_and_by_method(fake_registry: Registry, written: Any, kind: Any, parts: tuple[str, ...]) -> None:
    assert fake_registry.parts_of(written, kind) == parts


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("solo", r"Method 'solo' has no prompts; it offers solo \(as --fusion solo\)"),
        ("m.mix", "'m.mix' is a fusion, not a prompt: list it with --fusion"),
        ("m.row", "Unknown prompt 'm.row'"),
        ("m+none", "Unknown prompt 'none'"),
    ],
)
def test_wrong_parts_are_explained(fake_registry: Registry, written: str, message: str) -> None:
    with pytest.raises(AVCoreError, match=message):
        fake_registry.parts_of(written, "prompts")


def test_defaults_of_a_task(fake_registry: Registry, fake_modules: dict[str, Any], make_plugin: MakePlugin) -> None:
    assert fake_registry.default_head("segment").name == "seg.mask"
    demo = fake_registry.default_dataset("segment")
    assert demo is not None
    assert demo.name == "seg-demo"
    assert fake_registry.default_dataset("cls") is None
    assert [spec.name for spec in fake_registry.datasets_for("seg")] == ["seg-demo", "seg-files"]
    rival = make_plugin(datasets=[DatasetSpec(name="r", build="a:b", tasks=("seg",), default_for=("seg",))])
    with pytest.raises(AVCoreError, match="'seg-demo' and 'r'"):
        Registry.from_modules({**fake_modules, "rival": rival}).default_dataset("seg")


def test_the_registry_of_installed_plugins_follows_the_environment(
    install_plugin: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from avcore.hookspecs import hookimpl\nfrom avcore.specs import PromptSpec\n"
    source += "@hookimpl\ndef avcore_prompts():\n    return [PromptSpec(name='p', build='a:b')]\n"
    install_plugin("toy-installed-one", source)
    monkeypatch.setenv("AVCORE_PLUGINS", "toy-installed-one")
    assert load_registry().prompts.origin("p") == "toy-installed-one"
    assert load_registry() is load_registry()
    monkeypatch.setenv("AVCORE_BLOCK", "toy-installed-one")
    assert "p" not in load_registry().prompts
