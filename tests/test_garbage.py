"""A command looks for garbage seldom while it starts, and as ever from its first model on; a caller's process never."""

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from avcore import garbage
from avcore.cli import main
from avcore.testing import make_model
from avcore.testing.backbones import ToyBackbones


@pytest.fixture(autouse=True)
def thresholds(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int, int]]:
    monkeypatch.setattr(garbage, "_ever", [])
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_it_lasts_until_the_first_model_is_made(thresholds: tuple[int, int, int]) -> None:
    garbage.look_seldom()
    assert gc.get_threshold() > thresholds
    make_model(ToyBackbones(), "toy_plain")
    assert gc.get_threshold() == thresholds


def test_what_nobody_began_ends_nothing(thresholds: tuple[int, int, int]) -> None:
    frozen = gc.get_freeze_count()
    garbage.look_as_ever()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (thresholds, frozen)


def test_the_shell_begins_it_and_a_caller_does_not(
    thresholds: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    assert gc.get_threshold() == thresholds
    monkeypatch.setattr(sys, "argv", ["avcore", "--help"])
    main(standalone_mode=False)
    assert gc.get_threshold() > thresholds


def test_tasks_and_heads_are_made_without_what_scores_them() -> None:
    code = (
        "import sys; from avcore.registry import load_registry; found = load_registry(); "
        "[spec.load() for spec in (*found.tasks, *found.heads)]; import avcore.assemble; "
        "print(sorted({'torchmetrics', 'transformers', 'tensorboard', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
