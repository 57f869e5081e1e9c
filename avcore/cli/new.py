"""``avcore plugins new``: the whole distribution of a new plugin, written from templates. Imports no torch."""

import shlex
import subprocess
from pathlib import Path

import click

from avcore.registry import load_registry
from avcore.scaffold import KINDS, check_free, make_names, render, run_command, write

__all__ = ["new"]

_NO_AUTHOR = "Your Name"


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What the plugin offers.")
@click.option("--out", metavar="FOLDER", help="Where to write it, new or empty.  [default: ./avcore-NAME]")
@click.option("--author", metavar="TEXT", help="Whom pyproject.toml names.  [default: user.name of git]")
def new(name: str, kind: str, out: str | None, author: str | None) -> None:
    """Write a new plugin: a distribution avcore-NAME with code that trains, its tests, licence and CI.

    Nothing is installed, and no file that exists is touched.

    \b
    Examples:
      avcore plugins new my-method --kind method
      avcore plugins new sound-rows --kind prompt --out ~/code/sound-rows
    """  # noqa: D301 - click's mark for unwrapped lines
    names = make_names(name)
    check_free(names, load_registry())
    folder = Path(names.distribution if out is None else out).expanduser()
    texts = render(kind, names, author=" ".join((author or _git_author()).split()) or _NO_AUTHOR)
    write(texts, folder)
    shown = shlex.quote(str(folder))
    click.echo(f"{names.distribution}: {len(texts)} files in {shown}. Now:")
    click.echo(f"  pip install -e {shlex.quote(f'{folder}[test]')}")
    click.echo(f"  pytest {shown}")
    click.echo(f"  {run_command(kind, names)}")


def _git_author() -> str:
    """The name in git's configuration; empty where there is neither git nor a name."""
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout
