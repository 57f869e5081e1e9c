"""``avcore data``: look at a data set on disk."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from avcore.cli.usage import UsageGroup
from avcore.config import resolve_config
from avcore.registry import load_registry

if TYPE_CHECKING:
    from avcore.config import RunConfig
    from avcore.tasks import Clip, Dataset, Task

__all__ = ["data"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@click.group(cls=UsageGroup)
def data() -> None:
    """Look at a data set on disk."""


_OPTIONS = (
    click.argument("task"),
    click.option(
        "--data", "root", metavar="PATH", help="Folder of the data set.  [default: $AVCORE_DATA/NAME, else the demo]"
    ),
    click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE", help="A setting, such as data.dataset=NAME (repeatable)."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


def _of_a_data_set(command: CommandT) -> CommandT:
    """Give a command the options that choose a data set."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _open(
    task: str, root: str | None, sets: tuple[str, ...], visual: str | None = None, audio: str | None = None
) -> "tuple[RunConfig, Task, Dataset, str]":
    """The configuration, the task, the reader, and the root of its files."""
    registry = load_registry()
    # A configuration has a backbone; which one makes no difference to the data set.
    some = next((preset for spec in registry.backbones for preset in spec.presets), None)
    config = resolve_config(
        registry, method="none", task=task, visual=visual or audio or some, audio=audio, data=root, sets=sets
    ).config

    from avcore.data.opening import make_task, open_dataset

    made = make_task(config, registry)
    dataset, found = open_dataset(config, registry, made)
    return config, made, dataset, str(found)


@data.command()
@_of_a_data_set
@click.option("--visual", metavar="NAME", help="Backbone for pictures, whose cache and features are told.")
@click.option("--audio", metavar="NAME", help="Backbone for sound.  [default: that of --visual]")
def info(
    task: str, root: str | None, sets: tuple[str, ...], as_json: bool, visual: str | None, audio: str | None
) -> None:
    """Say what a data set for TASK holds: splits, clips, segments, the files of its first clip, what the caches take.

    \b
    Examples:
      avcore data info avs                       the built-in demo
      avcore data info avs --data AVSBench       your copy
      avcore data info TASK --data FOLDER        your own clips, where the task reads such
      avcore data info ave --data AVE_Dataset --visual vit_base_patch16_224.augreg_in21k
    """  # noqa: D301 - click's mark for unwrapped lines
    config, _, dataset, found = _open(task, root, sets, visual, audio)
    cache = _caches(dataset, config if visual or audio else None)
    facts = {"task": config.task, "dataset": config.data.dataset, "root": found, **_describe(dataset), "cache": cache}
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _print(facts)


@data.command()
@_of_a_data_set
def verify(task: str, root: str | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Read every clip that TASK would read and list what is wrong: exit code 1 with defects, 0 without.

    Notes, such as silence or a file that ends before its clip, are no defects.

    \b
    Examples:
      avcore data verify avs --data AVSBench
      avcore data verify ave --data AVE_Dataset --set data.workers=8
      avcore data verify ave --data AVE_Dataset --json > findings.json
    """  # noqa: D301 - click's mark for unwrapped lines
    from dataclasses import asdict

    from avcore.data.verify import list_clips
    from avcore.data.verify import verify as examine
    from avcore.data.workers import workers_watched
    from avcore.engine.display import Display

    # With --json, what a person is told goes to standard error.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        config, made, dataset, found = _open(task, root, sets)
        clips, findings = list_clips(dataset)
        looked_at = {"visual": config.streams != "audio", "audio": config.streams != "visual"}
        every = max(1, len(clips) // 10)
        with workers_watched(), Display().progress("verifying", len(clips), every=every) as advance:
            for done, new in enumerate(
                examine(dataset, clips, made, **looked_at, workers=config.data.workers), start=1
            ):
                findings += new
                advance(done, "clips")
        defects = [finding for finding in findings if finding.defect]
        of = {split: [clip for its, clip in clips if its == split] for split in dict.fromkeys(its for its, _ in clips)}
        held = {split: _held(dataset, split, listed) for split, listed in of.items()}
    if as_json:
        facts: dict[str, Any] = {"task": config.task, "dataset": config.data.dataset, "root": found}
        facts |= {"clips": len(clips), "defects": len(defects), "splits": held, "notes": list(dataset.notes())}
        click.echo(json.dumps({**facts, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            where = f"{finding.split}, clip {finding.clip}" if finding.clip else finding.split
            click.echo(f"{'DEFECT' if finding.defect else 'note  '}  {where}: {finding.text}")
        broken = len({(finding.split, finding.clip) for finding in defects})
        click.echo(f"{config.data.dataset} for task {config.task}, in {found}")
        _print_splits(held, dataset.notes())
        click.echo(f"{len(clips)} clips, {broken} with defects, {len(findings) - len(defects)} notes")
    sys.exit(1 if defects else 0)


def _held(dataset: "Dataset", split: str, clips: "Sequence[Clip]") -> dict[str, Any]:
    from avcore.data.broken import is_there

    groups = Counter(clip.group for clip in clips if clip.group)
    missing = sum(not is_there(clip) for clip in clips)
    counts = ({"missing": missing} if missing else {}) | dataset.counts(split)
    return {"clips": len(clips), "groups": dict(groups), "counts": counts}


def _describe(dataset: "Dataset") -> dict[str, Any]:
    from avcore.data.broken import is_there

    listed = {split: dataset.clips(split) for split in dataset.splits}
    clips = [clip for of in listed.values() for clip in of]
    # Some may be missing; where all are, the first one says which file is.
    first = next(filter(is_there, clips), next(iter(clips), None))
    return {
        "segments": dataset.segments,
        "windows": {"length_s": dataset.windows.length, "margin_s": dataset.windows.margin},
        "splits": {split: _held(dataset, split, of) for split, of in listed.items()},
        "notes": list(dataset.notes()),
        "first_clip": None if first is None else _describe_clip(dataset, first),
    }


def _describe_clip(dataset: "Dataset", clip: "Clip") -> dict[str, Any]:
    from dataclasses import asdict
    from pathlib import Path

    from avcore.data.media import probe
    from avcore.data.pictures import picture_size
    from avcore.data.randomness import drawn

    if isinstance(clip.frames, Path):
        frames: dict[str, Any] = {"file": str(clip.frames), **asdict(probe(clip.frames))}
    else:
        width, height = picture_size(clip.frames[0])
        frames = {"file": str(clip.frames[0]), "pictures": len(clip.frames), "width": width, "height": height}
    seen = drawn(dataset, clip, 0)
    targets, inputs = dataset.target(seen), dataset.inputs(seen, 0)
    return {
        "name": clip.name,
        "start_s": clip.start,
        "seconds": clip.seconds,
        "group": clip.group,
        "frames": frames,
        "audio": None if clip.audio is None else {"file": str(clip.audio), **asdict(probe(clip.audio))},
        "targets": {name: [*tensor.shape] for name, tensor in targets.items()},
        "inputs": {name: [*tensor.shape] for name, tensor in inputs.items()},
        "types": {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in {**inputs, **targets}.items()},
    }


def _caches(dataset: "Dataset", config: "RunConfig | None") -> dict[str, Any]:
    """What decoded clips take, and of a head alone on chosen backbones what its features do; in bytes."""
    from math import prod

    clips = [clip for split in dataset.splits for clip in dataset.clips(split)]
    seconds = [clip.seconds for clip in clips]
    told: dict[str, Any] = {"pictures_px": 224, "rate_hz": 16000, "channels": 1}
    pictures, features = dataset.segments * 3 * 224 * 224, None
    if config is not None:
        from avcore.assemble import assemble
        from avcore.runs.kept import bytes_of_clip

        model = assemble(config, load_registry(), meta=True)
        told["pictures_px"] = model.image and model.image.size
        pictures = dataset.segments * prod(model.image.shape) if model.image else 0
        told["rate_hz"], told["channels"] = (model.sound.rate, model.sound.channels) if model.sound else (None, 0)
        features = sum(bytes_of_clip(model, stream, fields) for stream, fields in model.reads.items())
    samples = [2 * told["channels"] * round(length * (told["rate_hz"] or 0)) for length in seconds]
    return {
        **told,
        "clip_bytes": pictures + (samples[0] if samples else 0),
        "bytes": pictures * len(clips) + sum(samples),
        "features_clip_bytes": features,
        "features_bytes": None if features is None else features * len(clips),
    }


def _print_caches(held: "Mapping[str, Any]", clips: int) -> None:
    from avcore.runs.kept import size_in_words as size

    kinds = [f"pictures of {held['pictures_px']} px" if held["pictures_px"] else ""]
    kinds += [f"sound of {held['rate_hz']} Hz" if held["rate_hz"] else ""]
    click.echo(
        f"In the clip cache a clip takes {size(held['clip_bytes'])}, all {clips} {size(held['bytes'])}: "
        f"{' and '.join(filter(None, kinds))}."
    )
    if held["features_clip_bytes"] is not None:
        click.echo(
            f"What the head alone reads of frozen features takes {size(held['features_clip_bytes'])} for a clip, "
            f"{size(held['features_bytes'])} for all (data.cache_features)."
        )


def _print_splits(splits: "Mapping[str, Any]", notes: "Sequence[str]") -> None:
    for split, held in splits.items():
        groups = held["groups"]
        shown = ", ".join(f"{group} {count}" for group, count in list(groups.items())[:12])
        more = f", and {len(groups) - 12} more" if len(groups) > 12 else ""
        counts = "".join(f", {count} {name}" for name, count in held["counts"].items())
        click.echo(
            f"  {split:<8} {held['clips']:>6} clips{counts}"
            + (f"   {len(groups)} groups: {shown}{more}" if groups else "")
        )
    for note in notes:
        click.echo(note)


def _print(facts: dict[str, Any]) -> None:
    windows, clip = facts["windows"], facts["first_clip"]
    click.echo(f"{facts['dataset']} for task {facts['task']}, in {facts['root']}")
    click.echo(
        f"A clip has {facts['segments']} segments, each with a window of {windows['length_s']} s of sound "
        f"(the last begins {windows['margin_s']} s before the end)."
    )
    _print_splits(facts["splits"], facts["notes"])
    if clip is None:
        click.echo("There is no clip in any split.")
        return
    _print_caches(facts["cache"], sum(held["clips"] for held in facts["splits"].values()))
    click.echo(f"First clip: {clip['name']}, {clip['seconds']} s from {clip['start_s']} s on")
    for kind in ("frames", "audio"):
        held = clip[kind]
        if held is not None:
            texts = [f"{key} {value}" for key, value in held.items() if key != "file" and value is not None]
            click.echo(f"  {kind:<8} {held['file']}: {', '.join(texts)}")
    for kind in ("target", "input"):
        for name, shape in clip[f"{kind}s"].items():
            click.echo(f"  {kind:<8} {name} {tuple(shape)} {clip['types'][name]}")
