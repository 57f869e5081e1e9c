"""The command line: a group whose commands are imported when they are called.

``avcore --help`` imports click and no more than this package: no torch and no plugin. Mistakes of the user
(`AVCoreError`, wrong usage) become one line on stderr and exit code 2.
"""

import errno
import importlib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import click

from avcore.cli.usage import Refusal, UsageGroup
from avcore.errors import DISK_FAULTS, AVCoreError, Preempted, why
from avcore.garbage import look_seldom

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "run": ("avcore.cli.run:run", "Train, evaluate and show the result."),
    "eval": ("avcore.cli.eval:evaluate", "Evaluate a finished run again."),
    "predict": ("avcore.cli.predict:predict", "Apply a finished run to a video."),
    "sweep": ("avcore.cli.sweep:sweep", "Run a grid of methods, settings and seeds."),
    "compare": ("avcore.cli.compare:compare", "Lay runs beside each other and beside what was published."),
    "runs": ("avcore.cli.runs:runs", "List runs and show what one reached."),
    "report": ("avcore.cli.report:report", "Write a page for a browser of a run, or of many."),
    "features": ("avcore.cli.features:features", "Write what a run makes of a split, frozen and adapted."),
    "figures": ("avcore.cli.figures:figures", "Draw how the features of a split lie."),
    "convert": ("avcore.cli.convert:convert", "Turn a checkpoint of a reference implementation into an adapter."),
    "push": ("avcore.cli.sharing:push", "Share a finished run on the Hugging Face hub, or in a folder."),
    "pull": ("avcore.cli.sharing:pull", "Fetch a run that was shared."),
    "params": ("avcore.cli.params:params", "Count parameters by part, without weights."),
    "bench": ("avcore.cli.bench:bench", "Estimate and measure what a step costs."),
    "config": ("avcore.cli.config:config", "Show every setting and where it comes from."),
    "plugins": ("avcore.cli.plugins:plugins", "List, show, combine and check what is installed; start a new one."),
    "data": ("avcore.cli.data:data", "Look at a data set on disk."),
}
"""Command -> where it lives, and its line in the help."""


class _LazyGroup(UsageGroup):
    """Knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except OSError as error:  # --help and --version write here
            _refuse_fault(error)
            raise

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        if args is None:  # nobody calls it but the shell
            look_seldom()
        return super().main(args, *rest, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AVCoreError as error:
            _tell_of_failure(error)
            raise Refusal(str(error)) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        except Preempted:
            raise
        except BaseException as error:
            if isinstance(error, OSError):
                _refuse_fault(error)
            _blame(error)
            raise


def _refuse_fault(error: OSError) -> None:
    """What a disk refuses, as one line.

    Raises:
        Refusal: it is such a fault, of a file or of the output, which a shell may put into one.
    """
    if error.errno in DISK_FAULTS and error.filename is not None:
        raise Refusal(f"Cannot use {error.filename}: {why(error)}.") from error
    if error.errno == errno.ENOSPC:
        # Python would write once more as it ends, and tell of that too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise Refusal(f"Cannot write the output: {why(error)}.") from error


def _blame(error: BaseException) -> None:
    """Where a plugin failed while it was used: the traceback, which its author needs, and one line that names it.

    Raises:
        click.exceptions.Exit: it was a plugin; also where that asked to leave with code 0.
    """
    from avcore.discovery import culprit
    from avcore.discovery.records import one_line
    from avcore.registry import load_registry

    plugin = culprit(error, load_registry().plugins)
    if plugin is None:
        return
    named = f"{plugin.distribution} {plugin.version}"
    _tell_failure(error, f"plugin {named} failed: {one_line(error).rstrip('.')}. Tell its author.")


def _tell_of_failure(error: AVCoreError) -> None:
    """As `_blame`, of what was caught where it was known which part it is of; of nothing else."""
    from avcore.discovery.signatures import PluginFailureError

    if isinstance(error, PluginFailureError) and error.__cause__ is not None:
        _tell_failure(error.__cause__, str(error))


def _tell_failure(error: BaseException, told: str) -> None:
    """Print the traceback, which the author of a plugin needs, and one line for everybody; leave with code 1."""
    traceback.print_exception(error)
    click.echo(f"avcore: error: {told}", err=True)
    raise click.exceptions.Exit(1) from error


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from avcore.discovery import avcore_version

        click.echo(f"avcore {avcore_version() or '(not installed, running from source)'}")
        ctx.exit()


class _Lines(logging.Handler):
    """What avcore and its plugins log, as lines on stderr like those of errors and warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        click.echo(f"avcore: {record.levelname.lower()}: {text}", err=True)


def _log_to_stderr() -> None:
    logger = logging.getLogger("avcore")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"avcore: warning: {' '.join(str(message).split())} ({category.__name__}, {filename}:{lineno})\n"


@click.group(
    "avcore",
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  avcore run --plugin copl --task avs                   train on the built-in demo
  avcore run --plugin copl --task avs --data FOLDER     ... on your copy of the data set
  avcore predict runs/NAME video.mp4                    watch what it learnt
  avcore runs list                                      what was trained so far
  avcore plugins list                                   what is installed
'avcore COMMAND --help' explains a command.""",
)
@click.option("--block", multiple=True, metavar="DIST", help="Do not import this plugin distribution (repeatable).")
@click.option(
    "--strict-plugins", is_flag=True, help="Stop if an installed plugin is broken, instead of leaving it out."
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
def main(block: tuple[str, ...], strict_plugins: bool) -> None:
    """Parameter-efficient audio-visual learning: frozen backbones, small trainable prompts and fusions."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # some names of files are no Unicode, some terminals know less
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _warning_line
    _log_to_stderr()
    # The environment reaches loader processes too.
    if block:
        os.environ["AVCORE_BLOCK"] = ",".join([*filter(None, [os.environ.get("AVCORE_BLOCK")]), *block])
    if strict_plugins:
        os.environ["AVCORE_STRICT_PLUGINS"] = "1"
