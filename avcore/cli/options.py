"""The options that describe a run, shared by every command that needs a configuration."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from avcore.config import Resolved, resolve_config
from avcore.registry import load_registry

__all__ = ["config_options", "resolve_from_options"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

# Options that are keys of the configuration and have no argument of their own in `resolve_config`.
_KEYS = {"epochs": "train.epochs", "start": "train.start"} | {
    key: key for key in ("protocol", "seed", "device", "shapley", "baseline", "trivial")
}

_OPTIONS = (
    click.option("--plugin", "--method", "method", metavar="NAME", help="Method to train (such as copl), or none."),
    click.option("--task", metavar="NAME", help="Task (such as avs); 'avcore plugins list' names all."),
    click.option("--recipe", metavar="VARIANT", help="Variant of the method's published settings for the task."),
    click.option("--prompts", metavar="A+B", help="Prompts in place of the method's: names, a method, or none."),
    click.option(
        "--fusion", "fusions", metavar="C+D", help="Fusions in place of the method's: names, a method, or none."
    ),
    click.option("--streams", metavar="visual|audio|both", help="Which streams run.  [default: both]"),
    click.option("--visual", metavar="NAME", help="Backbone for pictures."),
    click.option("--audio", metavar="NAME", help="Backbone for sound; 'shared' uses the one for pictures."),
    click.option("--text", metavar="NAME", help="Encoder of sentences, for heads that read some."),
    click.option("--text-audio", metavar="NAME", help="Another one for what such a head compares with sound."),
    click.option("--data", metavar="PATH", help="Folder of the data set.  [default: $AVCORE_DATA/NAME, else the demo]"),
    click.option("--config", "file", metavar="FILE", help="YAML file of settings, such as config.yaml of a run."),
    click.option(
        "--protocol",
        metavar="clean|paper",
        help="Select the checkpoint on val and read test once, or measure as published.  [default: clean]",
    ),
    click.option("--seed", type=int, help="Seed of every random draw.  [default: 0]"),
    click.option("--epochs", type=int, help="Passes over the training split."),
    click.option("--start", metavar="DIR", help="Run or adapter at whose trained values this one starts."),
    click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.  [default: auto]"),
    click.option(
        "--shapley/--no-shapley",
        default=None,
        help="Also measure what each stream brings to the scores, as Shapley values.",
    ),
    click.option("--baseline/--no-baseline", default=None, help="Also train the head alone, to compare."),
    click.option(
        "--trivial/--no-trivial",
        default=None,
        help="Also score the majority answer, and train the head alone on a backbone of random weights.",
    ),
    click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any setting, such as optim.lr=1e-3 (repeatable)."
    ),
)


def config_options(command: CommandT) -> CommandT:
    """Give a command the options of a configuration; it passes what it receives to `resolve_from_options`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def resolve_from_options(*, need_data: bool = True, **given: Any) -> Resolved:
    """The configuration that the values of `config_options` describe, with the installed plugins.

    Raises:
        AVCoreError: as `resolve_config`.
    """
    options = {key: given.pop(option) for option, key in _KEYS.items() if option in given}
    return resolve_config(load_registry(), **given, options=options, need_data=need_data)
