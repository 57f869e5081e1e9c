"""The options that describe a run, shared by every command that needs a configuration."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

from avcore.config import Resolved, resolve_config
from avcore.errors import ConfigError
from avcore.registry import Registry, load_registry
from avcore.specs import Spec

__all__ = ["ConfigCommand", "config_options", "refuse_without", "resolve_from_options", "zero_shot_options"]

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
    "start": click.option(
        "--start", "--from", "start", metavar="DIR", help="Run or adapter at whose trained values this one starts."
    ),
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


@dataclass(frozen=True)
class _Declared:
    """An option that tasks or data sets declare for a setting: its words, and task -> the key that it stands for."""

    metavar: str
    help: str
    keys: dict[str, str] = field(default_factory=dict)

    def key(self, name: str, task: str | None) -> str:
        """The key for a task; without one, as with ``--config FILE``, that of all.

        Raises:
            ConfigError: the task has no such setting, or it is another one in each.
        """
        keys = set(self.keys.values()) if task is None else {self.keys.get(task, "")}
        if "" in keys:
            raise ConfigError(
                f"--{name}: task '{task}' has no such setting. Tasks that have it: {', '.join(self.keys)}."
            )
        if len(keys) > 1:
            raise ConfigError(f"--{name} is another setting in each task: name it, with --task NAME.")
        return keys.pop()


def _declared(registry: Registry) -> dict[str, _Declared]:
    """The options that tasks and data sets declare, by name; the first to declare one says its words."""
    found: dict[str, _Declared] = {}
    for task in registry.tasks:
        name = registry.tasks.key_of(task)
        beside: list[tuple[str, Spec]] = [("data", one) for one in registry.datasets_for(name)]
        for section, spec in [*beside, ("task_options", task)]:
            for entry in dataclasses.fields(spec.config):
                if metavar := entry.metadata.get("option"):
                    words = _Declared(metavar, entry.metadata.get("help", ""))
                    option = found.setdefault(entry.name.replace("_", "-"), words)
                    option.keys[name] = f"{section}.{entry.name}"
    return found


class ConfigCommand(click.Command):
    """A command with `config_options`, beside them the options that tasks and data sets declare for their settings.

    Such an option is the ``--set`` of that setting, before those that are written out.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own, those that are declared, ``--help``."""
        own = super().get_params(ctx)
        declared = [
            click.Option([f"--{name}"], metavar=one.metavar, help=f"{one.help}  [{', '.join(one.keys)}]")
            for name, one in self._offered(ctx).items()
        ]
        return [*own[:-1], *declared, own[-1]]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; what is declared goes to ``sets``."""
        rest = super().parse_args(ctx, args)
        tasks, task = load_registry().tasks, ctx.params["task"]
        sets = []
        for name, one in self._offered(ctx).items():
            value = ctx.params.pop(name.replace("-", "_"))
            if value is not None:
                sets.append(f"{one.key(name, task and tasks.key(task))}={value}")
        ctx.params["sets"] = (*sets, *ctx.params["sets"])
        return rest

    def _offered(self, ctx: click.Context) -> dict[str, _Declared]:
        """Those declared; a name that the command has itself stays what it is."""
        taken = {name for one in super().get_params(ctx) for name in (f"--{one.name}", *one.opts)}
        return {name: one for name, one in _declared(load_registry()).items() if f"--{name}" not in taken}


def config_options(command: CommandT) -> CommandT:
    """Give a `ConfigCommand` the options of a configuration; what it receives it passes to `resolve_from_options`."""
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
