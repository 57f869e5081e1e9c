import json
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from torch import nn

from avcore.cli import main
from avcore.config import resolve_config
from avcore.registry import Registry

INSTALLED = {distribution.name for distribution in distributions()}
FIRST_PARTY = {"avcore-timm", "avcore-copl", "avcore-avs"}


def params(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["params", *arguments])


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.rows, self.head = nn.Linear(9, 10), nn.Linear(4, 5), nn.Linear(1, 2)
        self.trunk.requires_grad_(False)
        self.streams: dict[str, Any] = {}

    def components(self) -> dict[str, list[nn.Module]]:
        return {"visual": [self.trunk], "audio": [self.trunk], "m.rows": [self.rows], "head": [self.head]}

    def unused_in_reference(self) -> dict[str, int]:
        return {"head": 3}


@pytest.fixture
def assembled(fake_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that were assembled; a toy model comes out."""
    configs: list[Any] = []

    def assemble(config: Any, registry: Registry, *, meta: bool) -> nn.Module:
        assert registry is fake_registry
        assert meta
        configs.append(config)
        return Toy()

    monkeypatch.setattr("avcore.cli.options.load_registry", lambda: fake_registry)
    monkeypatch.setattr("avcore.registry.load_registry", lambda: fake_registry)
    monkeypatch.setattr("avcore.assemble.assemble", assemble)
    monkeypatch.setattr("avcore.states.components", Toy.components)
    monkeypatch.setattr("avcore.states.unused_in_reference", Toy.unused_in_reference)
    return configs


@pytest.fixture
def write_run(fake_registry: Registry, tmp_path: Path) -> Callable[..., Path]:
    def write(**options: Any) -> Path:
        text = resolve_config(fake_registry, **options).yaml()
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_json(assembled: list[Any]) -> None:
    result = params("--plugin", "m", "--task", "seg", "--set", "parts.m.rows.length=7", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["parts"]["visual"] == {"tensors": 2, "parameters": 100, "trainable": 0}
    assert data["parts"]["audio"] == {"tensors": 0, "parameters": 0, "trainable": 0}
    assert (data["trainable"], data["frozen"], data["total"], data["unused_in_reference"]) == (29, 100, 129, 3)
    assert [config.parts["m.rows"].length for config in assembled] == [7]


def test_published_numbers_are_those_of_the_recipe(assembled: list[Any], fake_registry: Registry) -> None:
    recipe = resolve_config(fake_registry, method="m", task="seg").recipe
    assert recipe is not None
    data = json.loads(params("--plugin", "m", "--task", "seg", "--json").stdout)
    assert data["published"] == [dict(entry) for entry in recipe.published]


def test_table_for_people(assembled: list[Any]) -> None:
    text = params("--plugin", "m", "--task", "seg").stdout
    lines = [line.split() for line in text.splitlines()]
    assert ["m.rows", "2", "25", "25"] in lines
    assert ["total", "6", "129", "29"] in lines
    assert "Trained: 29 of 129 (22.48 %): 25 in the parts, 4 in the head." in text.splitlines()


def test_a_run_is_counted_with_its_own_configuration(assembled: list[Any], write_run: Callable[..., Path]) -> None:
    directory = write_run(method="m", task="seg", sets=["parts.m.rows.length=11"])
    assert params(str(directory)).exit_code == 0
    assert [config.parts["m.rows"].length for config in assembled] == [11]


def test_a_directory_without_a_run_is_refused(assembled: list[Any], tmp_path: Path) -> None:
    result = params(str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"avcore: error: {tmp_path} is not the directory of a run: it has no config.yaml."
    ]


def test_a_run_and_a_file_are_refused_together(assembled: list[Any], write_run: Callable[..., Path]) -> None:
    directory = write_run(method="m", task="seg")
    result = params(str(directory), "--config", str(directory / "config.yaml"))
    assert result.exit_code == 2
    assert "not both" in result.stderr


def test_a_misspelt_method_is_one_line(assembled: list[Any]) -> None:
    result = params("--plugin", "mm", "--task", "seg")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not INSTALLED >= FIRST_PARTY, reason="the first-party plugins are not installed")
def test_a_real_model_adds_up() -> None:
    result = params("--plugin", "copl", "--task", "avs", "--visual", "vit_tiny_patch16_224", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert {"visual", "audio", "copl.rows", "copl.coupling", "head"} <= set(data["parts"])
    # timm's ViT-Tiny without classifier.
    assert data["parts"]["visual"]["parameters"] == 5_524_416
    assert data["parts"]["audio"]["parameters"] == 0
    assert data["total"] == sum(part["parameters"] for part in data["parts"].values())
    assert data["trainable"] == sum(part["trainable"] for part in data["parts"].values())
    assert data["frozen"] == data["total"] - data["trainable"] == 5_524_416
