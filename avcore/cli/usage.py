"""Wrong usage in one line: what is wrong, the near miss, and which help explains it. Imports click only."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import click

from avcore.errors import did_you_mean

__all__ = ["Refusal", "UsageGroup"]

CALLED = "avcore.called"
"""Where a click context keeps the command that was called last."""
GIVEN = "avcore.given"
"""Where a click context keeps what was written after the name of that command."""


class Refusal(click.ClickException):
    """A mistake of the user on its way to the terminal: one line, exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"avcore: error: {' '.join(self.message.split())}", file=file, err=file is None)


class UsageGroup(click.Group):
    """A group that answers wrong usage, its own and that of its commands, with one line."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the options of the group itself."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            raise _refusal(error, str(self.name)) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Read the options of the command and run it."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _refusal(error, ctx.meta.get(CALLED, ctx.command_path)) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the near miss."""
        commands = self.list_commands(ctx)
        if args[0] not in commands and not args[0].startswith("-"):
            near = did_you_mean(args[0], commands)
            raise click.UsageError(f"Unknown command '{args[0]}'.{near} Commands: {', '.join(commands)}.", ctx)
        # Kept because some of click's errors do not say which command they are about.
        ctx.meta[CALLED] = f"{ctx.command_path} {args[0]}"
        ctx.meta[GIVEN] = args[1:]
        return super().resolve_command(ctx, args)


def _refusal(error: click.UsageError, called: str) -> click.ClickException:
    # One that shows itself in a way of its own is a bare `avcore` or `avcore plugins`: click answers with the help.
    if type(error).show is not click.UsageError.show:
        return error
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for one in error.ctx.command.get_params(error.ctx) for name in (*one.opts, *one.secondary_opts)]
        file = _file_like(error.ctx.meta.get(GIVEN, ()), error.option_name)
        near = f" Write './{file}' for the file." if file else did_you_mean(error.option_name, known)
        message = f"Unknown option '{file or error.option_name}'.{near}"
    path = called if error.ctx is None else error.ctx.command_path
    return Refusal(f"{message.rstrip('.?')}{'?' if message.endswith('?') else '.'} '{path} --help' shows how.")


def _file_like(given: Sequence[str], option: str) -> str | None:
    """The argument that was taken for options and is meant as a file: ``-abc.mp4``, read as ``-a -b -c ...``."""
    letters = option.lstrip("-")
    dashed = (text for text in given if text.startswith("-") and letters in text and "=" not in text)
    return next((text for text in dashed if Path(text).suffix or Path(text).exists()), None)
