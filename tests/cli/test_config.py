import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from avcore.cli import main
from avcore.config import resolve_config
from avcore.config.leaves import flatten
from avcore.registry import Registry


@pytest.fixture(autouse=True)
def fake(fake_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avcore.cli.options.load_registry", lambda: fake_registry)


def show(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", "show", *arguments])


def test_each_leaf_with_value_and_layer() -> None:
    result = show("--plugin", "m", "--task", "seg", "--set", "optim.lr=1e-4", "--epochs", "3", "--seed", "7")
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.stdout.splitlines()}
    assert lines["optim.lr"] == ["0.0001", "--set optim.lr=1e-4"]
    assert lines["train.epochs"] == ["3", "option epochs"]
    assert lines["seed"] == ["7", "option seed"]
    assert lines["parts.m.rows.length"] == ["20", "recipe m/seg"]
    assert lines["visual.backbone"] == ['"toy_tiny"', "dataset seg-demo"]
    assert lines["optim.eps"] == ["1e-08", "default"]


def test_the_data_set_is_the_one_that_a_run_would_take(
    fake_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*arguments: str) -> dict[str, object]:
        result = show("--plugin", "m", "--task", "seg", "--json", *arguments)
        return {key: row["value"] for key, row in json.loads(result.stdout).items()}

    def run(**given: object) -> dict[str, object]:
        return flatten(resolve_config(fake_registry, method="m", task="seg", **given).tree())

    assert shown() == run()
    assert shown()["data.dataset"] == "seg-demo"
    assert shown("--data", str(tmp_path))["data.dataset"] == "seg-files"
    assert shown("--baseline")["baseline"] is True
    (tmp_path / "seg-files").mkdir()
    monkeypatch.setenv("AVCORE_DATA", str(tmp_path))
    assert shown() == run()
    assert shown()["data.root"] == str(tmp_path / "seg-files")


def test_no_data_is_the_error_of_a_run() -> None:
    result = show("--plugin", "none", "--task", "cls", "--visual", "toy_tiny")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "No data for task 'cls'" in result.stderr


def test_json() -> None:
    rows = json.loads(show("--method", "m", "--task", "seg", "--json").stdout)
    assert rows["prompts"] == {"value": ["m.rows"], "layer": "method m"}
    assert rows["optim.clip_norm"] == {"value": None, "layer": "default"}


def test_yaml_is_a_file_for_config(tmp_path: Path, fake_registry: Registry) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(show("--plugin", "m", "--task", "seg", "--streams", "audio", "--yaml").stdout)
    assert resolve_config(fake_registry, file=file).config.streams == "audio"
    assert show("--config", str(file), "--yaml").stdout == file.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "seg", "--plugin", "mm"], "Unknown method 'mm'. Did you mean 'm'?"),
        (["--task", "seg", "--plugin", "m", "--set", "visual.wieghts=x"], "Did you mean 'visual.weights'?"),
        (["--task", "seg", "--plugin", "m", "--data", "/nowhere/at/all"], "The data root '/nowhere/at/all' does not"),
        (["--task", "seg", "--plugin", "m", "--device", "gpu"], "device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        (["--task", "seg", "--plugin", "m", "--protocol", "papr"], "it must be one of 'clean', 'paper'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    result = show(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("avcore: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_schema(monkeypatch: pytest.MonkeyPatch, fake_registry: Registry) -> None:
    monkeypatch.setattr("avcore.cli.config.load_registry", lambda: fake_registry)
    core = json.loads(CliRunner().invoke(main, ["config", "schema"]).stdout)
    assert core["properties"]["optim"]["properties"]["lr"]["type"] == "number"
    assert core["properties"]["parts"] == {"type": "object"}
    result = CliRunner().invoke(main, ["config", "schema", "--plugin", "m", "--task", "seg"])
    rows = json.loads(result.stdout)["properties"]["parts"]["properties"]["m"]["properties"]["rows"]
    assert rows["properties"]["length"] == {"type": "integer", "description": "rows per block", "default": 10}
    refused = CliRunner().invoke(main, ["config", "schema", "--plugin", "mm", "--task", "seg"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    described = CliRunner().invoke(main, ["config", "schema", "--help"])
    assert "avcore config schema --plugin copl --task avs" in described.stdout


def test_help_shows_the_options_and_an_example() -> None:
    text = show("--help").stdout
    for option in ("--plugin", "--method", "--recipe", "--prompts", "--fusion", "--set KEY=VALUE", "--protocol"):
        assert option in text
    assert "avcore config show --plugin copl --task avs" in text


def test_a_transform_that_does_not_fit_is_one_line() -> None:
    result = show("--plugin", "m", "--task", "seg", "--set", "train.augment.visual=[{name: RandomVerticalFlip, p: 3}]")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "train.augment.visual[0].p does not fit RandomVerticalFlip" in result.stderr
