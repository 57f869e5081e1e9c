"""`avcore.run`: options in, a finished run out; several seeds become several runs and their mean."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from avcore.config import Resolved, resolve_config
from avcore.config.names import full_names_in
from avcore.config.recipes import parse_yaml
from avcore.engine.display import Display
from avcore.engine.records import default_directory, refuse_used
from avcore.engine.result import mean_over_seeds
from avcore.engine.signals import Signals
from avcore.errors import AVCoreError, ConfigError
from avcore.ranks import from_first, joined, ranks
from avcore.registry import Registry, load_registry
from avcore.report.published import published_scores
from avcore.runs.base import Run, missing_run
from avcore.runs.execute import execute
from avcore.runs.resume import describe_versions, has_run, refuse_other_release
from avcore.runs.summary import describe_seeds

__all__ = ["run"]


def run(
    method: str | None = None,
    *,
    task: str | None = None,
    recipe: str | None = None,
    prompts: str | Sequence[str] | None = None,
    fusions: str | Sequence[str] | None = None,
    streams: str | None = None,
    visual: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    text_audio: str | None = None,
    data: str | Path | None = None,
    config: str | Path | None = None,
    protocol: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    start: str | Path | None = None,
    device: str | None = None,
    shapley: bool | None = None,
    baseline: bool | None = None,
    trivial: bool | None = None,
    set: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool | str | Path | None = None,
    seeds: int = 1,
    quiet: bool = False,
) -> Run:
    """Train, evaluate and write down; what ``avcore run`` does.

    Args:
        method: a published method: its prompts, fusions and recipe; ``"none"`` trains the head alone.
        task: what is to be learnt, such as ``"avs"``; needed unless ``config`` says it.
        recipe: variant of the method's recipe.
        prompts, fusions: in place of the method's: ``"a+b"``, a sequence, a method for all its own, ``"none"``.
        streams: ``visual``, ``audio`` or ``both``.
        visual, audio: backbones; ``audio="shared"`` uses the visual one for sound.
        text: the encoder of sentences, for heads that read some.
        text_audio: another one for what such a head compares with sound.
        data: folder of the data set; by default ``$AVCORE_DATA/<data set>``, else the demo.
        config: a YAML file of settings, such as ``config.yaml`` of a run.
        protocol: ``clean`` selects on val and reads test once, ``paper`` selects where the reference code did.
        seed: of every random draw.
        epochs: passes over the training split.
        start: a run or an adapter at whose trained values this one starts, tensor by tensor where names are the same;
            other shapes are refused, and the run tells what was read.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        shapley: also measure what each stream brings to the scores; see `RunResult`.
        baseline: also train the head alone with the same recipe, to compare.
        trivial: also score the majority answer (`Task.majority`), and train the head alone on a backbone of random
            weights.
        set: further settings, ``"key=value"``.
        out: directory of the run, new or empty; by default ``runs/<task>-<method>-<UTC>``.
        resume: directory of a run to go on with, from its latest checkpoint and with its own settings, which other
            arguments may repeat but not change (but `data.workers`, `train.save_every` and the like, and a larger
            ``epochs``); ``True``: go on with the run in ``out``, or begin it there.
        seeds: train with so many seeds, ``seed``, ``seed + 1``, ..., each in a directory of its own.
        quiet: show nothing.

    Returns:
        The run with its best weights; for several seeds one with ``members``, whose metrics are means.

    Raises:
        AVCoreError: a mistake in the options or in the data; says what to do.
        KeyboardInterrupt: Ctrl-C; what was reached is saved.
        SystemExit: SIGTERM, SIGUSR1 or SIGHUP, with code 143; what was reached is saved.

    Example:
        >>> run = avcore.run("copl", task="avs", epochs=2)  # doctest: +SKIP
        >>> run.evaluate("test")  # doctest: +SKIP
        {'M_J': 61.2, 'M_F': 70.9}
    """
    if seeds < 1:
        raise ConfigError(f"seeds={seeds} must be at least 1.")
    target, going_on = _target(out, resume)
    if target is not None and going_on and task is None and config is None and has_run(target):
        config = target / "config.yaml"
    notes = describe_versions(Path(config).parent) if config is not None and not going_on else []
    registry = load_registry()
    if target is not None and going_on and has_run(target):
        # Before its settings are read, whose meaning may be another one now.
        refuse_other_release(target, registry)
        registry = registry.recorded(_recorded_in(target / "config.yaml"))
    resolved = resolve_config(
        registry,
        method=method,
        task=task,
        recipe=recipe,
        prompts=prompts,
        fusions=fusions,
        streams=streams,
        visual=visual,
        audio=audio,
        text=text,
        text_audio=text_audio,
        data=data,
        file=config,
        options={
            "protocol": protocol,
            "seed": seed,
            "train.epochs": epochs,
            "train.start": None if start is None else str(start),
            "device": device,
            "shapley": shapley,
            "baseline": baseline,
            "trivial": trivial,
        },
        sets=tuple(set),
    )
    taken: AbstractContextManager[Path] = nullcontext(target or Path())
    if target is None and ranks().first:
        taken = default_directory(resolved.config.task, resolved.config.method)
    with joined(), taken as own:
        directory = from_first(own)
        if seeds == 1:
            return execute(resolved, registry, directory, quiet=quiet, resume=going_on, notes=notes)
        return _run_seeds(resolved, registry, directory, seeds, quiet=quiet, resume=going_on)


def _target(out: str | Path | None, resume: bool | str | Path | None) -> tuple[Path | None, bool]:
    """The directory that was named, None if none was, and whether a run may go on in it."""
    if resume is None or resume is False:
        return None if out is None else Path(out), False
    if resume is True:
        if out is None:
            raise ConfigError("Which run is to go on? Write --resume DIR, or --resume with --out DIR.")
        return Path(out), True
    if out is not None:
        raise ConfigError(f"--resume {resume} names the run, so leave out --out; or write --resume --out {out}.")
    if not has_run(Path(resume)):
        raise AVCoreError(missing_run(Path(resume)))
    return Path(resume), True


def _recorded_in(file: Path) -> Mapping[str, Sequence[str]]:
    """The full names in the configuration of a run that goes on, so that options which repeat it mean the same."""
    tree = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    return full_names_in(tree.get("full_names") or {}, f"file {file}")


def _run_seeds(
    resolved: Resolved, registry: Registry, directory: Path, seeds: int, *, quiet: bool, resume: bool
) -> Run:
    first = ranks().first
    if first and not resume:
        refuse_used(directory)
    members = []
    with Signals():
        for seed in range(resolved.config.seed, resolved.config.seed + seeds):
            one = Resolved(config=replace(resolved.config, seed=seed), origins={}, recipe=resolved.recipe)
            member = execute(one, registry, directory / f"seed-{seed}", quiet=quiet, resume=resume)
            # The next seed needs the memory.
            member.release()
            members.append(member)
    results = mean_over_seeds([member.results for member in members])
    if first:
        results.write(directory / "results.json")
    recorded = registry.recorded(resolved.config.full_names)
    Display(quiet=quiet or not first).line(f"\n{describe_seeds(results, published_scores(results, recorded))}")
    return Run(directory, resolved.config, registry, results=results, members=tuple(members))
