"""The options that describe a run, shared by every command that needs a configuration."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from avcore.config import Resolved, resolve_config
from avcore.errors import ConfigError
from avcore.registry import load_registry

__all__ = ["config_options", "refuse_without", "resolve_from_options", "zero_shot_options"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

# Options that are keys of the configuration and have no argument of their own in `resolve_config`.
_KEYS = {"epochs": "train.epochs", "start": "train.start"} | {
    key: key for key in ("protocol", "seed", "device", "shapley", "baseline", "trivial")
}

_OPTIONS = {
    "method": click.option(
        "--plugin", "--method", "method", metavar="NAME", help="Method to train (such as copl), or none."
    ),
    "task": click.option("--task", metavar="NAME", help="Task (such as avs); 'avcore plugins list' names all."),
    "recipe": click.option(
        "--recipe", metavar="VARIANT", help="Variant of the method's published settings for the task."
    ),
    "prompts": click.option(
        "--prompts", metavar="A+B", help="Prompts in place of the method's: names, a method, or none."
    ),
    "fusions": click.option(
        "--fusion", "fusions", metavar="C+D", help="Fusions in place of the method's: names, a method, or none."
    ),
    "streams": click.option("--streams", metavar="visual|audio|both", help="Which streams run.  [default: both]"),
    "visual": click.option("--visual", metavar="NAME", help="Backbone for pictures."),
    "audio": click.option("--audio", metavar="NAME", help="Backbone for sound; 'shared' uses the one for pictures."),
    "text": click.option("--text", metavar="NAME", help="Encoder of sentences, for heads that read some."),
    "text_audio": click.option(
        "--text-audio", metavar="NAME", help="Another one for what such a head compares with sound."
    ),
    "data": click.option(
        "--data", metavar="PATH", help="Folder of the data set.  [default: $AVCORE_DATA/NAME, else the demo]"
    ),
    "file": click.option(
        "--config", "file", metavar="FILE", help="YAML file of settings, such as config.yaml of a run."
    ),
    "protocol": click.option(
        "--protocol",
        metavar="clean|paper",
        help="Select the checkpoint on val and read test once, or measure as published.  [default: clean]",
    ),
    "seed": click.option("--seed", type=int, help="Seed of every random draw.  [default: 0]"),
    "epochs": click.option("--epochs", type=int, help="Passes over the training split."),
    "start": click.option("--start", metavar="DIR", help="Run or adapter at whose trained values this one starts."),
    "device": click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: auto]"),
    "shapley": click.option(
        "--shapley/--no-shapley",
        default=None,
        help="Also measure what each stream brings to the scores, as Shapley values.",
    ),
    "baseline": click.option("--baseline/--no-baseline", default=None, help="Also train the head alone, to compare."),
    "trivial": click.option(
        "--trivial/--no-trivial",
        default=None,
        help="Also score the majority answer, and train the head alone on a backbone of random weights.",
    ),
    "sets": click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any setting, such as optim.lr=1e-3 (repeatable)."
    ),
}


def config_options(command: CommandT) -> CommandT:
    """Give a command the options of a configuration; it passes what it receives to `resolve_from_options`."""
    return _with(command, _OPTIONS)


def zero_shot_options(command: CommandT) -> CommandT:
    """Give a command the options of what needs no training; it passes what it receives to `avcore.zero_shot`."""
    return _with(command, ("task", "streams", "visual", "audio", "text", "text_audio", "sets"))


def refuse_without(option: str, **given: Any) -> None:
    """Refuse `zero_shot_options`, and others, that only go with an option that is not given.

    Raises:
        ConfigError: names one that is given.
    """
    for name, value in given.items():
        if value not in (None, ()):
            written = "set" if name == "sets" else name.replace("_", "-")
            raise ConfigError(f"--{written} goes with {option}: a run has its own.")


def _with(command: CommandT, names: Iterable[str]) -> CommandT:
    for name in reversed([*names]):
        command = _OPTIONS[name](command)
    return command


def resolve_from_options(*, need_data: bool = True, **given: Any) -> Resolved:
    """The configuration that the values of `config_options` describe, with the installed plugins.

    Raises:
        AVCoreError: as `resolve_config`.
    """
    options = {key: given.pop(option) for option, key in _KEYS.items() if option in given}
    return resolve_config(load_registry(), **given, options=options, need_data=need_data)
