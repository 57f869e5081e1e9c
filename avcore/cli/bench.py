"""``avcore bench``: what a step costs, estimated and measured, beside the bare backbone."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from avcore.cli.options import ConfigCommand, config_options, resolve_from_options
from avcore.cli.usage import UsageGroup
from avcore.errors import ConfigError, DataError, why
from avcore.registry import load_registry

if TYPE_CHECKING:
    from avcore.config import RunConfig

__all__ = ["bench"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@click.group(cls=UsageGroup)
def bench() -> None:
    """Measure and estimate what a step costs, beside the bare backbone.

    The bare backbone is the same frozen streams with one trained vector for each segment added to the embedded tokens:
    gradients cross every block. It is the floor of every table.
    """


def _json(command: CommandT) -> CommandT:
    written = "Also write the record there: figures, settings, device, versions, commit."
    return click.option("--json", "out", type=click.Path(dir_okay=False), metavar="FILE", help=written)(command)


@bench.command(cls=ConfigCommand)
@config_options
@click.option(
    "--also",
    multiple=True,
    metavar="METHOD",
    help="Another method with the same options, measured in turn (repeatable).",
)
@click.option(
    "--clips", type=click.IntRange(min=1), metavar="B", help="Clips of the batch.  [default: train.batch_size]"
)
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Calls that are timed.")
@click.option("--warmup", type=click.IntRange(min=1), default=3, show_default=True, help="Calls before them.")
@click.option("--evaluation/--no-evaluation", default=True, help="Also the forward for evaluation.  [default: yes]")
@_json
def step(
    also: tuple[str, ...], clips: int | None, steps: int, warmup: int, evaluation: bool, out: str | None, **given: Any
) -> None:
    """Time whole training steps, on noise.

    They take turns with the bare backbone's, in the same process. Takes the options of 'avcore run'; no data
    and no weights are read. Times are medians, with the quartiles. Memory is
    measured on a CUDA device; elsewhere it is what the estimator says of one.

    \b
    Examples:
      avcore bench step --plugin lavish --task ave --visual vit_base_patch16_224 --clips 1 --steps 5
      avcore bench step --plugin lavish --also copl --task ave --set train.precision=fp32 --json before.json
    """  # noqa: D301 - click's mark for unwrapped lines
    configs = _configs(also, given)

    from avcore.bench import bench_step

    record = bench_step(
        configs, load_registry(), clips=clips, steps=steps, warmup=warmup, evaluation=evaluation, say=_say
    )
    _show(record, out)


@bench.command(cls=ConfigCommand)
@config_options
@click.option("--clips", default="1,4,8,16", show_default=True, metavar="B,B", help="Batches of the table.")
@click.option("--fit", metavar="24GB", help="Also say the largest batch and setting that fit a device of so much.")
@_json
def memory(clips: str, fit: str | None, out: str | None, **given: Any) -> None:
    """Estimate the memory of training steps.

    There is a row for each train.memory and batch, and no GPU is needed. Weights, the state of the optimiser
    and every tensor that lives are counted on shapes alone, under the rules of a
    CUDA device; no data and no weights are read. --fit leaves 600 MB for the device's context and a twentieth for gaps
    between tensors.

    \b
    Examples:
      avcore bench memory --plugin lavish --task ave --recipe swin
      avcore bench memory --plugin dgsct --task ave --fit 24GB
    """  # noqa: D301 - click's mark for unwrapped lines
    try:
        counts = [int(one) for one in clips.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError(f"--clips {clips}: write numbers of clips, such as 1,2,4.")
    ((name, config),) = _configs((), given).items()

    from avcore.bench import bench_memory, bytes_of

    limit = None if fit is None else bytes_of(fit)
    record = bench_memory(name, config, load_registry(), clips=counts, fit=limit, say=_say)
    _show(record, out)
    if fit is not None:
        click.echo(f"\n{_fitting(record['largest'], fit, config.train.batch_size)}")


@bench.command(cls=ConfigCommand)
@config_options
@click.option("--batches", type=click.IntRange(min=1), default=8, show_default=True, help="Batches that are read.")
@_json
def data(batches: int, out: str | None, **given: Any) -> None:
    """Time the loader, with and without its cache.

    Takes the options of 'avcore run'. The cache that it fills is one of its own, which goes again.

    \b
    Examples:
      avcore bench data --plugin copl --task avs
      avcore bench data --plugin lavish --task ave --data AVE_Dataset --set data.workers=8
    """  # noqa: D301 - click's mark for unwrapped lines
    resolved = resolve_from_options(**given)

    from avcore.bench import bench_data

    _show(bench_data(resolved.config, load_registry(), batches=batches, say=_say), out)


@bench.command()
@click.option("--plugin", "--method", "method", required=True, metavar="NAME", help="Method.")
@click.option("--task", required=True, metavar="NAME", help="Task, on whose demo it runs.")
@click.option("--visual", metavar="NAME", help="Backbone for pictures.  [default: that of the demo]")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Calls that count.")
@_json
def startup(method: str, task: str, visual: str | None, repeats: int, out: str | None) -> None:
    """Time what a person waits for.

    That is --help, plugins list, params, and a run on the demo to its first step.

    \b
    Examples:
      avcore bench startup --plugin copl --task avs
      avcore bench startup --plugin dgsct --task ave --repeats 5 --json start.json
    """  # noqa: D301 - click's mark for unwrapped lines
    from avcore.bench import bench_startup

    options = ["--plugin", method, "--task", task, *(["--visual", visual] if visual else [])]
    _show(bench_startup(options, repeats=repeats, say=_say), out)


@bench.command()
@click.argument("first", metavar="A.json")
@click.argument("second", metavar="B.json")
def compare(first: str, second: str) -> None:
    """Set two records side by side.

    Printed is every figure of both, and the second over the first. Refused are records of other devices, tasks,
    backbones or batches; what else differs is told.

    \b
    Examples:
      avcore bench compare before.json after.json
    """  # noqa: D301 - click's mark for unwrapped lines
    a, b = _read(first), _read(second)

    from avcore.bench import compared
    from avcore.report.tables import render_table

    told, rows = compared(a, b)
    for line in told:
        click.echo(line)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    click.echo(render_table(keys, [[row.get(key) for key in keys] for row in rows], title=f"A {first}, B {second}"))


def _configs(also: tuple[str, ...], given: Mapping[str, Any]) -> "dict[str, RunConfig]":
    """The run that the options describe, and those of other methods with the same options, by the names of rows."""
    found = {}
    for method in (given["method"], *also):
        config = resolve_from_options(need_data=False, **{**given, "method": method}).config
        name = config.method or "+".join((*config.prompts, *config.fusions)) or "head alone"
        if name in found:
            raise ConfigError(f"--also {method}: it is measured already.")
        found[name] = config
    return found


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show(record: Mapping[str, Any], out: str | None) -> None:
    from avcore.bench import render
    from avcore.engine.files import write_json

    device, settings = record["device"], record["settings"]
    told = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    changed = " with changes" if record["dirty"] else ""
    where = "shapes alone" if device["kind"] == "meta" else f"{device['name']}, {device['threads']} threads"
    click.echo(f"{where}; avcore {(record['commit'] or record['versions'].get('avcore', ''))[:10]}{changed}; {told}")
    click.echo(render(record["rows"]))
    if out is not None:
        write_json(Path(out), record)


def _fitting(largest: Mapping[str, int], limit: str, wanted: int) -> str:
    """The largest batch of each setting, and the fastest setting in which the run's own batch fits."""
    if not any(largest.values()):
        return f"{limit} is too little for one clip, with any train.memory. Choose a smaller backbone (--visual NAME)."
    told = ", ".join(f"{memory} {clips}" for memory, clips in largest.items())
    fitting = next((memory for memory, clips in largest.items() if clips >= wanted), None)
    own = f"fits with train.memory={fitting}" if fitting else "fits with none"
    return f"Largest batch in {limit} by train.memory: {told}. This run's own, train.batch_size={wanted}, {own}."


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {why(error)}.") from error
    except ValueError as error:
        raise DataError(f"{path} is no record of 'avcore bench': {error}.") from error
