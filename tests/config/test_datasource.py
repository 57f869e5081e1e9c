import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from avcore.config import Resolved, resolve_config
from avcore.errors import AVCoreError
from avcore.registry import Registry
from avcore.specs import DatasetSpec, HeadSpec, TaskSpec


def resolved(registry: Registry, **given: Any) -> Resolved:
    return resolve_config(registry, **{"method": "none", "task": "seg", "visual": "toy_tiny", **given})


def test_without_data_the_demo_is_used(fake_registry: Registry) -> None:
    found = resolved(fake_registry, visual=None)
    assert (found.config.data.dataset, found.config.data.root) == ("seg-demo", None)
    assert found.config.visual.backbone == "toy_tiny"
    assert found.config.train.epochs == 2
    assert found.origins["train.epochs"] == found.origins["data.dataset"] == "dataset seg-demo"


def test_a_root_picks_the_real_data_set(
    fake_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "AVS").mkdir()
    monkeypatch.chdir(tmp_path)
    found = resolved(fake_registry, data="AVS")
    assert (found.config.data.dataset, found.config.data.root) == ("seg-files", tmp_path / "AVS")
    assert found.config.data.settings.size == 224
    assert found.origins["data.root"] == "option data"
    assert found.config.train.epochs == 5


def test_a_missing_root_is_an_error(fake_registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(AVCoreError, match=r"data root '.*nowhere' does not exist \(option data\)"):
        resolved(fake_registry, data=tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(AVCoreError, match=r"is a file, not a folder \(--set data.root="):
        resolved(fake_registry, sets=[f"data.root={tmp_path / 'file'}"])
    found = resolved(fake_registry, data=tmp_path / "nowhere", need_data=False)
    assert found.config.data.root == tmp_path / "nowhere"


def test_the_environment_goes_before_the_demo(
    fake_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVCORE_DATA", str(tmp_path))
    assert resolved(fake_registry).config.data.dataset == "seg-demo"
    (tmp_path / "seg-files").mkdir()
    found = resolved(fake_registry)
    assert (found.config.data.dataset, found.config.data.root) == ("seg-files", tmp_path / "seg-files")
    assert found.origins["data.root"] == "$AVCORE_DATA"
    monkeypatch.setenv("AVCORE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(AVCoreError, match=r"AVCORE_DATA names '.*nowhere', which is no folder"):
        resolved(fake_registry)


def test_a_named_data_set(fake_registry: Registry, tmp_path: Path) -> None:
    demo = resolved(fake_registry, data=tmp_path, sets=["data.dataset=seg-demo"]).config.data
    assert (demo.dataset, demo.root) == ("seg-demo", tmp_path)
    with pytest.raises(AVCoreError, match=r"No files for data set 'seg-files': name their folder with --data PATH"):
        resolved(fake_registry, sets=["data.dataset=seg-files"])
    with pytest.raises(AVCoreError, match=r"'cls-a' does not serve task 'seg'. Those that do: seg-demo, seg-files"):
        resolved(fake_registry, sets=["data.dataset=cls-a"])


def test_several_data_sets_ask_for_a_choice(fake_registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(AVCoreError, match=r"--set data.dataset=NAME, one of cls-a, cls-b"):
        resolved(fake_registry, task="cls", data=tmp_path)
    chosen = resolved(fake_registry, task="cls", data=tmp_path, sets=["data.dataset=cls-b"])
    assert chosen.config.data.dataset == "cls-b"


def test_of_several_data_sets_the_one_whose_files_are_there_is_taken(
    fake_modules: dict[str, Any], make_plugin: Any, tmp_path: Path
) -> None:
    kept = make_plugin(
        tasks=[TaskSpec(name="cls", build="toy:T", head="points")], heads=[HeadSpec(name="points", build="toy:H")]
    )

    def knows(**marks: tuple[str, ...]) -> Registry:
        specs = [DatasetSpec(name=name, build="toy:A", tasks=("cls",), marks=of) for name, of in marks.items()]
        modules = {"toy-backbones": fake_modules["toy-backbones"], "kept": kept}
        return Registry.from_modules({**modules, "more": make_plugin(datasets=specs)})

    marked = {"lists": ("*.txt", "Files/*.txt"), "table": ("events.csv",)}
    two = knows(**marked)
    with pytest.raises(AVCoreError) as refused:
        resolved(two, task="cls", data=tmp_path)
    assert str(refused.value) == (
        f"'{tmp_path}' holds the files of no data set for task 'cls'. They are known by: lists: *.txt or Files/*.txt; "
        "table: events.csv."
    )
    three = knows(**marked, folders=())
    assert resolved(three, task="cls", data=tmp_path).config.data.dataset == "folders"
    (tmp_path / "events.csv").touch()
    for known in (two, three):
        assert resolved(known, task="cls", data=tmp_path).config.data.dataset == "table"
    (tmp_path / "Files").mkdir()
    (tmp_path / "Files" / "train.txt").touch()
    with pytest.raises(AVCoreError, match=r"data\.dataset=NAME, one of lists, table"):
        resolved(three, task="cls", data=tmp_path)
    (tmp_path / "events.csv").unlink()
    assert resolved(three, task="cls", data=tmp_path).config.data.dataset == "lists"
    # The only one is taken as it is, and says itself what it lacks.
    only = knows(table=("events.csv",))
    assert resolved(only, task="cls", data=tmp_path).config.data.dataset == "table"


def test_a_published_data_set_goes_first_where_nothing_is_read(fake_modules: dict[str, Any], make_plugin: Any) -> None:
    own = DatasetSpec(name="a-folder", build="toy:A", tasks=("seg",), marks=("events.csv",))
    registry = Registry.from_modules({**fake_modules, "toy-own": make_plugin(datasets=[own])})
    assert resolved(registry, need_data=False).config.data.dataset == "seg-files"


def test_no_data_at_all_says_what_to_do(fake_registry: Registry) -> None:
    with pytest.raises(AVCoreError, match=r"No data for task 'cls': name a folder with --data PATH.*\(cls-a, cls-b\)"):
        resolved(fake_registry, task="cls")
    assert resolved(fake_registry, task="cls", need_data=False).config.data.dataset is None


def test_without_a_default_the_only_data_set_gives_the_clip_settings(fake_modules: dict[str, Any]) -> None:
    del fake_modules["toy-demo"]
    registry = Registry.from_modules(fake_modules)
    assert resolved(registry, need_data=False).config.data.dataset == "seg-files"


@pytest.fixture
def demo_run(fake_registry: Registry, tmp_path: Path) -> Path:
    """The configuration of a run on the demo, with settings beside it."""
    file = tmp_path / "config.yaml"
    sets = ["data.segments=4", "data.workers=3", "head.width=7"]
    file.write_text(resolved(fake_registry, sets=sets).yaml())
    return file


@pytest.mark.parametrize("as_option", [True, False])
def test_a_root_leaves_the_demo_of_a_file_behind(fake_registry: Registry, demo_run: Path, as_option: bool) -> None:
    root = demo_run.parent
    given: dict[str, Any] = {"data": root} if as_option else {"sets": [f"data.root={root}"]}
    found = resolved(fake_registry, file=demo_run, **given)
    data = found.config.data
    assert (data.dataset, data.root, data.settings.segments) == ("seg-files", root, 10)
    assert found.origins["data.dataset"] == "dataset seg-files"
    assert (data.workers, found.config.head.settings.width) == (3, 7)


def test_a_demo_that_is_named_again_or_alone_stays(fake_registry: Registry, demo_run: Path, tmp_path: Path) -> None:
    sets = ["data.dataset=seg-demo"]
    again = resolved(fake_registry, file=demo_run, data=tmp_path, sets=sets).config.data
    assert (again.dataset, again.root, again.settings.segments) == ("seg-demo", tmp_path, 4)
    alone = resolved(fake_registry, file=demo_run).config.data
    assert (alone.dataset, alone.root, alone.settings.segments) == ("seg-demo", None, 4)


def test_a_root_changes_nothing_else_of_a_file_with_a_real_data_set(fake_registry: Registry, tmp_path: Path) -> None:
    tree = {"data": {"dataset": "seg-files", "root": "/nowhere", "size": 64}}
    data = resolved(fake_registry, file=tree, data=tmp_path).config.data
    assert (data.dataset, data.root, data.settings.size) == ("seg-files", tmp_path, 64)


def test_what_only_the_files_know_lies_above_the_data_sets_defaults(
    fake_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spec,) = [spec for spec in fake_registry.datasets if spec.name == "seg-files"]
    object.__setattr__(spec, "reads", f"{__name__}:size_in")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, ModuleType(__name__)))
    monkeypatch.setattr(sys.modules[__name__], "size_in", size_in, raising=False)
    (tmp_path / "size").write_text("96")
    found = resolved(fake_registry, data=tmp_path)
    assert found.config.data.settings.size == 96
    assert found.origins["data.size"] == f"files in {tmp_path}"
    assert resolved(fake_registry, data=tmp_path, sets=["data.size=64"]).config.data.settings.size == 64
    nowhere = resolved(fake_registry, data=tmp_path / "nowhere", need_data=False)
    assert nowhere.config.data.settings.size == 224


def size_in(root: Path) -> dict[str, int]:
    return {"data.size": int((root / "size").read_text())}
