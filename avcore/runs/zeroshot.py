"""`avcore.zero_shot`: frozen backbones, a head that needs no training, and names of classes; nothing is on disk."""

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from avcore.config import resolve_config
from avcore.data.lines import read_lines
from avcore.engine.randomness import isolated_randomness
from avcore.errors import ConfigError
from avcore.registry import Registry, load_registry
from avcore.runs.base import Run, build_model
from avcore.runs.execute import results_of
from avcore.specs import HeadSpec, TaskSpec

__all__ = ["read_words", "zero_shot"]


def zero_shot(
    words: Sequence[str] | None = None,
    *,
    task: str | None = None,
    visual: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    text_audio: str | None = None,
    streams: str | None = None,
    data: str | Path | None = None,
    protocol: str | None = None,
    set: Sequence[str] = (),
    device: str | None = None,
) -> Run:
    """A run that was never trained: what ``avcore predict --zero-shot`` and ``avcore eval --zero-shot`` use.

    Args:
        words: names of the classes, two at least; None for those of the data set of ``task``.
        task: by default the one that takes any names; with ``words=None`` it must be named.
        visual, audio: backbones that project into a space shared with sentences.
        text: the encoder of the sentences that ``visual`` was trained beside, or of all.
        text_audio: of those that ``audio`` was trained beside.
        streams: by default those whose backbones are named; where none is, as on a demo, which brings its own, both.
        data: folder of the data set.
        protocol: ``clean`` or ``paper``.
        set: further settings, ``"key=value"``, such as ``head.name=NAME``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        A run without files, whose `Run.predict` and `Run.evaluate` work; its ``directory`` is the working folder.

    Raises:
        AVCoreError: the names, or the settings, cannot be used; says what to do.

    Example:
        >>> run = avcore.zero_shot(["dog", "violin"], visual=VISUAL, text=TEXT)  # doctest: +SKIP
        >>> run.predict("video.mp4").spans[0].text  # doctest: +SKIP
        'seen: dog 93 %'
    """
    registry = load_registry()
    spec = _task(registry, task, named=words is not None)
    options: dict[str, object] = {"protocol": protocol, "device": device}
    given = {text.partition("=")[0].strip() for text in set}
    if "head.name" not in given:
        options["head.name"] = registry.heads.key_of(_head(registry, spec))
    if "train.precision" not in given:  # half precision would round cosines
        options["train.precision"] = "fp32"
    if words is not None:
        options[f"task_options.{spec.words}"] = _checked(words)
    if streams is None and (visual or audio or words is not None):
        streams = "both" if visual and audio else "audio" if audio else "visual"
    config = resolve_config(
        registry,
        task=registry.tasks.key_of(spec),
        prompts="none",
        fusions="none",
        visual=visual,
        audio=audio,
        text=text,
        text_audio=text_audio,
        streams=streams,
        data=data,
        options=options,
        sets=tuple(set),
        need_data=words is None,
    ).config
    with isolated_randomness():
        model = build_model(config, registry).eval()
    run = Run(Path(), config, registry, results=results_of(model, registry))
    run.adopt(model)
    return run


def read_words(text: str) -> tuple[str, ...]:
    """Names of classes as a person writes them: ``dog, "siren, far off", violin``, or ``@FILE`` with one a line.

    Raises:
        AVCoreError: the file cannot be read, quotes are not closed, or the names cannot be told apart.
    """
    if text.startswith("@"):
        return _checked([line for _, line in read_lines(Path(text[1:]).expanduser())])
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ConfigError(
            f"--zero-shot {text}: {error}. Write names with commas between them, those with a comma in quotes: "
            'dog, "siren, far off".'
        ) from None
    names = [name for row in rows for name in row]
    if len(names) == 1 and '"' not in text and Path(text).is_file():
        raise ConfigError(
            f"--zero-shot {text}: that is a file. Write --zero-shot @{text} to take a class from each line."
        )
    return _checked(names)


def _checked(words: Sequence[str]) -> tuple[str, ...]:
    """The names without blanks around them.

    Raises:
        ConfigError: there are fewer than two, one is empty, or two are the same.
    """
    if isinstance(words, str):
        raise ConfigError(f"words={words!r} is one text: give a list, such as ['dog', 'violin'].")
    names = tuple(unicodedata.normalize("NFC", " ".join(word.split())) for word in words)
    places: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        if not name and any(names):
            raise ConfigError(f"Class {place} of {len(names)} has no name: two commas, or one too many at the end.")
        if (before := places.setdefault(name.casefold(), place)) != place:
            raise ConfigError(f"Classes {before} and {place} are both '{name}': leave one out.")
    if not names or not names[0]:
        raise ConfigError("No class is named: write at least two, such as --zero-shot 'dog, violin'.")
    if len(names) == 1:
        raise ConfigError(
            f"Only '{names[0]}' is named, which everything would be: name what else it could be, such as "
            f"--zero-shot '{names[0]}, something else'."
        )
    return names


def _task(registry: Registry, name: str | None, *, named: bool) -> TaskSpec:
    if name is not None:
        spec = registry.tasks[name]
        if named and not spec.words:
            raise ConfigError(f"Task '{name}' has classes of its own: leave them, or the task, out.")
        return spec
    if not named:
        raise ConfigError("Which data set? Name its task with --task, and its folder with --data PATH.")
    free = [one for one in registry.tasks if one.words]
    if len(free) != 1:
        found = ", ".join(sorted(registry.tasks.key_of(one) for one in free))
        raise ConfigError(
            f"Several tasks take any names: choose with --task, one of {found}."
            if free
            else "No installed plugin has a task that takes any names."
        )
    return free[0]


def _head(registry: Registry, task: TaskSpec) -> HeadSpec:
    """The head that answers without training: the task's own, or the only one for it."""
    found = [head for head in registry.heads if head.untrained and head.takes(task)]
    own = [head for head in found if head.name == task.head]
    if len(own or found) != 1:
        names = ", ".join(sorted(registry.heads.key_of(one) for one in found))
        raise ConfigError(
            f"Several heads answer task '{task.name}' without training: choose with --set head.name=NAME, one of "
            f"{names}."
            if found
            else f"No installed head answers task '{task.name}' without training."
        )
    return (own or found)[0]
