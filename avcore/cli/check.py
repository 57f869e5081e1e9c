"""``avcore plugins check``: the conformance kit on the command line."""

from typing import TYPE_CHECKING

import click

from avcore.errors import ConfigError

if TYPE_CHECKING:
    from avcore.testing import Report, Result

__all__ = ["check"]

_WORDS = {"passed": "ok", "failed": "FAIL", "skipped": "skip", "expected failure": "expected"}


@click.command()
@click.argument("distribution")
@click.option("--data", metavar="NAME=FOLDER", multiple=True, help="Files of a data set to check it on. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: counts, and each check with state and reason.")
def check(distribution: str, data: tuple[str, ...], as_json: bool) -> None:
    """Check an installed plugin: its package, its settings, and everything that it offers, on small backbones.

    Leaves with exit code 1 if a check fails. What cannot be checked is skipped with its reason.

    \b
    Examples:
      avcore plugins check avcore-copl
      avcore plugins check avcore-ave --data ave=~/data/AVE --json
    """  # noqa: D301 - click's mark for unwrapped lines
    from avcore.testing import check_plugin

    roots = dict(_named(text) for text in data)
    report = check_plugin(distribution, data=roots, progress=None if as_json else _print)
    if as_json:
        click.echo(report.to_json())
    else:
        _print_end(report)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _named(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder:
        raise ConfigError(f"--data {text}: write NAME=FOLDER, with the name of a data set.")
    return name, folder


def _print(result: "Result") -> None:
    click.echo(f"{_WORDS[result.state]:<9}{result.id}")
    if result.reason:
        for line in result.reason.splitlines():
            click.echo(f"         {line}")


def _print_end(report: "Report") -> None:
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.counts.items())
    click.echo(f"{report.distribution} {report.version}: {counts}")
