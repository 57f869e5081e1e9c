"""``avcore push`` and ``avcore pull``: runs for others, and of others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from avcore.errors import ConfigError

if TYPE_CHECKING:
    from avcore.runs.sharing import Shared

__all__ = ["pull", "push"]

JSON_HELP = 'Print {"repository", "files": {name: bytes}, "place"}.'


@click.command()
@click.argument("directory", metavar="RUN")
@click.argument("repository", metavar="REPOSITORY")
@click.option(
    "--license",
    metavar="NAME",
    help="Licence of what was trained, by the hub's name of it: cc-by-4.0, apache-2.0, mit, ...  [needed]",
)
@click.option("--public", is_flag=True, help="A repository that is made can be seen by all.  [default: its owner only]")
@click.option("--revision", metavar="NAME", help="Branch of the repository, made if there is none.  [default: main]")
@click.option("--force", is_flag=True, help="Replace files that are there already; others stay.")
@click.option("--dry-run", is_flag=True, help="List what would be sent; ask and write nowhere.")
@click.option("--message", metavar="TEXT", help="Of the commit.  [default: method and task]")
@click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
def push(
    directory: str,
    repository: str,
    license: str | None,
    public: bool,
    revision: str | None,
    force: bool,
    dry_run: bool,
    message: str | None,
    as_json: bool,
) -> None:
    """Share RUN: its best weights as an adapter, its configuration, its results, and a card made of them.

    REPOSITORY is owner/name on the Hugging Face hub, or a folder, which begins with ./, / or ~. No frozen weights, no
    data and no code are sent, and no folder names of this machine. Writing to the hub needs a token: hf auth login, or
    HF_TOKEN.

    \b
    Examples:
      avcore push runs/NAME owner/name --license cc-by-4.0 --dry-run
      avcore push runs/NAME owner/name --license cc-by-4.0 --public
      avcore push runs/NAME ./shared/name --license mit
    """  # noqa: D301 - click's mark for unwrapped lines
    from avcore.runs import sharing

    if license is None:
        raise ConfigError(
            "No licence: say with --license NAME what others may do with what was trained, such as cc-by-4.0 (with "
            "your name), apache-2.0, mit or cc-by-nc-4.0 (not for money)."
        )
    done = sharing.push(
        directory,
        repository,
        license=license,
        private=not public,
        revision=revision,
        force=force,
        dry_run=dry_run,
        message=message,
    )
    _tell(done, f"would be sent to {done.repository}" if dry_run else f"sent to {done.place}", as_json)


@click.command()
@click.argument("repository", metavar="REPOSITORY")
@click.option("-o", "--out", metavar="DIR", help="Folder for it, new or empty.  [default: runs/NAME]")
@click.option("--force", is_flag=True, help="Replace what was pulled into the folder before.")
@click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
def pull(repository: str, out: str | None, force: bool, as_json: bool) -> None:
    """Fetch a run that was shared, into a folder that `avcore eval` and `avcore predict` take as a RUN.

    REPOSITORY is owner/name or owner/name@revision on the Hugging Face hub (a branch, a tag or a commit), or a folder,
    which begins with ./, / or ~. Only adapter, configuration, results and card are taken, nothing that could be run.

    \b
    Examples:
      avcore pull owner/name
      avcore pull owner/name@v1 -o runs/theirs
      avcore predict runs/name VIDEO
      avcore eval runs/name --data FOLDER
    """  # noqa: D301 - click's mark for unwrapped lines
    from pathlib import Path

    from avcore.runs import sharing

    name = Path(repository.partition("@")[0]).name
    done = sharing.pull(repository, Path("runs", name) if out is None else out, force=force)
    _tell(done, f"from {done.repository} in {done.place}", as_json)


def _tell(done: Shared, where: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**vars(done), "files": dict(done.files)}, indent=2, ensure_ascii=False))
        return
    for name, size in done.files.items():
        click.echo(f"{size:>13,} bytes  {name}")
    click.echo(where)
