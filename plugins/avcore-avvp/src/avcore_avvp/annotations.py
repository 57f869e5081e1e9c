"""LLP's text files, parted by tabs: labels of whole clips, and events with their seconds. Imports no torch."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from avcore.data.lines import read_lines
from avcore.errors import DataError, did_you_mean

__all__ = [
    "CLASSES",
    "FEATS",
    "FOLDERS",
    "LISTS",
    "MOTION",
    "Event",
    "Labelled",
    "Remark",
    "class_settings_in",
    "classes_in",
    "find_root",
    "look_at_events",
    "look_at_lists",
    "read_clips",
    "read_events",
    "settings_in",
    "told",
]

LISTS = {"train": "AVVP_train.csv", "val": "AVVP_val_pd.csv", "test": "AVVP_test_pd.csv"}
"""The list of clips of each split, with the classes of each clip."""
CATEGORIES = "categories.txt"
FEATS = "feats"
"""The folder of features beside the lists, as in HAN's repository."""
MOTION = "r2plus1d_18"
"""Features of motion, which a head may see beside the pictures."""
FOLDERS = ("", "data", "LLP_dataset", "LLP")
"""Where the lists lie below the folder that a person names."""

CLASSES = (
    *("Speech", "Car", "Cheering", "Dog", "Cat", "Frying_(food)", "Basketball_bounce", "Fire_alarm", "Chainsaw"),
    *("Cello", "Banjo", "Singing", "Chicken_rooster", "Violin_fiddle", "Vacuum_cleaner", "Baby_laughter", "Accordion"),
    *("Lawn_mower", "Motorcycle", "Helicopter", "Acoustic_guitar", "Telephone_bell_ringing", "Baby_cry_infant_cry"),
    *("Blender", "Clapping"),
)
"""The 25 classes of LLP in the order of their indices."""

WEAK = ("filename", "event_labels")
DENSE = ("filename", "onset", "offset", "event_labels")


@dataclass(frozen=True)
class Labelled:
    """A clip of a split: its name, id_start_end, the classes that occur anywhere in it, and the line of its list."""

    name: str
    labels: tuple[str, ...]
    line: int

    @property
    def media(self) -> str:
        """The stem of its video file: the id, the first eleven characters of the name."""
        return self.name[:11]


@dataclass(frozen=True)
class Event:
    """A line of seconds: a class from ``onset`` up to, and without, ``offset`` s of a clip."""

    name: str
    onset: int
    offset: int
    label: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Remark:
    """Something in a line of a file that is wrong and does no harm.

    Attributes:
        file: its name.
        line: its number.
        name: of the clip, or what stands in its place.
        kind: what is wrong, to be read behind the line.
    """

    file: str
    line: int
    name: str
    kind: str


TOLD = 20
"""Lines of one kind that are told one by one."""
NO_CLIP = "names no clip"
CLASS_FOR_CLIP = "names no clip, but a class in the column of the file names"
OF_TRAIN = "has seconds of a clip of train, which are not used"
NO_SECOND = "ends where it begins or before, and marks no second"
BEYOND = "reaches beyond the clip; what is outside is left out"
TWICE = "names a class twice"
REPEATED = "repeats an earlier line and counts once"
IN_TWO_SPLITS = "is on the list of another split too"
SAME_MEDIA = "begins with the eleven characters of another clip, and has its media"


def _rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, list[str]]]:
    """The cells of the lines that are not blank, with their numbers; a first line of column names is left out."""
    rows: list[tuple[int, list[str]]] = []
    for number, line in read_lines(path):
        cells = [cell.strip() for cell in line.split("\t")]
        if not rows and cells[0].lower() == columns[0]:
            rows.append((number, []))
            continue
        if len(cells) != len(columns) or not all(cells):
            raise DataError(
                f"'{path}' line {number} is not {', '.join(columns)}, parted by tabs: '{line}'. Correct it."
            )
        rows.append((number, cells))
    return [(number, cells) for number, cells in rows if cells]


def read_clips(path: Path) -> tuple[list[Labelled], list[Remark]]:
    """The clips of a split's list in the order of its lines, and what is odd in it.

    A line that stands there twice counts once.

    Raises:
        DataError: the file cannot be read, a line is malformed, or a clip has two lines that differ; names them.
    """
    found: dict[str, Labelled] = {}
    remarks: list[Remark] = []
    for number, (name, text) in _rows(path, WEAK):
        labels = [label.strip() for label in text.split(",") if label.strip()]
        if not labels:
            raise DataError(f"'{path}' line {number}: '{name}' has no class. Name one, or take the line out.")
        if len(set(labels)) < len(labels):
            remarks.append(Remark(path.name, number, name, TWICE))
        made = Labelled(name, tuple(dict.fromkeys(labels)), number)
        known = found.setdefault(name, made)
        if known is made:
            continue
        if set(known.labels) != set(made.labels):
            raise DataError(
                f"'{path}' has '{name}' in line {known.line} ({','.join(known.labels)}) and in line {number} "
                f"({','.join(made.labels)}): take one out."
            )
        remarks.append(Remark(path.name, number, name, REPEATED))
    return list(found.values()), remarks


def read_events(path: Path, classes: Collection[str]) -> list[Event]:
    """The events of a file of seconds, in the order of its lines, whether or not their clips are known.

    Raises:
        DataError: the file cannot be read, or a line is malformed or names an unknown class; names it.
    """
    events = []
    for number, (name, onset, offset, label) in _rows(path, DENSE):
        begin, end = _whole(onset), _whole(offset)
        if begin is None or end is None:
            raise DataError(f"'{path}' line {number}: '{onset}' and '{offset}' are no whole seconds.")
        if label not in classes:
            raise DataError(
                f"'{path}' line {number}: '{label}' is none of the {len(classes)} classes."
                f"{did_you_mean(label, classes)}"
            )
        events.append(Event(name, begin, end, label, number))
    return events


def _whole(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def look_at_lists(lists: Mapping[str, Iterable[Labelled]]) -> list[Remark]:
    """Clips that stand on the lists of two splits, and those that share their media; ``lists`` by split."""
    splits: dict[str, str] = {}
    media: dict[str, str] = {}
    remarks = []
    for split, clips in lists.items():
        for clip in clips:
            if splits.setdefault(clip.name, split) != split:
                remarks.append(Remark(LISTS[split], clip.line, clip.name, IN_TWO_SPLITS))
            elif media.setdefault(clip.media, clip.name) != clip.name:
                remarks.append(Remark(LISTS[split], clip.line, clip.name, SAME_MEDIA))
    return remarks


def look_at_events(path: Path, events: Iterable[Event], known: Mapping[str, str], seconds: float) -> list[Remark]:
    """What is odd in a file of seconds: lines that mean no clip, or no second of one.

    Args:
        path: of the file.
        events: its lines.
        known: the split of each clip by its name.
        seconds: of a clip.
    """
    remarks = []
    for event in events:
        kinds = []
        if event.name not in known:
            kinds.append(_meant(event.name, known))
        elif known[event.name] == "train":
            kinds.append(OF_TRAIN)
        if event.onset >= event.offset:
            kinds.append(NO_SECOND)
        elif event.onset < 0 or event.offset > seconds:
            kinds.append(BEYOND)
        remarks += [Remark(path.name, event.line, event.name, kind) for kind in kinds]
    return remarks


def _meant(name: str, known: Mapping[str, str]) -> str:
    """Why a name is none, as far as it can be told: a class in its column, or a sign too much."""
    if name in CLASSES:
        return CLASS_FOR_CLIP
    if (bare := name.strip("`'\" ")) != name and bare in known:
        return f"names no clip, with a {name.replace(bare, '')} too much"
    return NO_CLIP


def told(remarks: Iterable[Remark]) -> list[str]:
    """A sentence for each kind of remark on a file, with the lines: those of a file that fits badly are counted."""
    found: dict[tuple[str, str], list[str]] = {}
    for remark in remarks:
        found.setdefault((remark.file, remark.kind), []).append(f"line {remark.line} ({remark.name})")
    sentences = []
    for (file, kind), lines in found.items():
        more = [f"and {len(lines) - TOLD} more"] if len(lines) > TOLD else []
        sentences.append(f"{file}: {', '.join([*lines[:TOLD], *more])} {kind}.")
    return sentences


def find_root(root: Path) -> Path:
    """The folder with the lists of clips: ``root``, or ``data``, ``LLP_dataset`` or ``LLP`` in it.

    Raises:
        DataError: none holds ``AVVP_train.csv``.
    """
    for folder in FOLDERS:
        if (root / folder / LISTS["train"]).is_file():
            return root / folder
    raise DataError(
        f"'{root}' holds no {LISTS['train']}, nor do {', '.join(folder for folder in FOLDERS if folder)} in it; give "
        "--data the folder of LLP with its lists of clips, files of seconds and media."
    )


def classes_in(root: Path) -> tuple[str, ...]:
    """The classes of the files in ``root`` in the order of their indices.

    That of ``categories.txt``, one name a line; without it LLP's, where the lists name no other class, else that in
    which the lists of train, val and test name them.

    Raises:
        DataError: a list cannot be read, or names a class that ``categories.txt`` does not have.
    """
    named: dict[str, tuple[Path, int]] = {}
    for file in LISTS.values():
        if (path := root / file).is_file():
            for clip in read_clips(path)[0]:
                for label in clip.labels:
                    named.setdefault(label, (path, clip.line))
    listed = root / CATEGORIES
    if not listed.is_file():
        return CLASSES if named.keys() <= set(CLASSES) else tuple(named)
    classes = tuple(cells[0] for _, cells in _rows(listed, ("category",)))
    if len(set(classes)) < len(classes) or not classes:
        raise DataError(f"'{listed}' must name each class once, one a line.")
    for label, (path, number) in named.items():
        if label not in classes:
            raise DataError(
                f"'{path}' line {number}: '{label}' is none of the {len(classes)} classes of '{listed}'."
                f"{did_you_mean(label, classes)}"
            )
    return classes


def class_settings_in(root: Path) -> dict[str, list[str]]:
    """The classes of a data set's lists, as a setting (`DatasetSpec.reads`)."""
    return {"task_options.classes": list(classes_in(find_root(root)))}


def settings_in(root: Path) -> dict[str, list[str]]:
    """The settings that the files of a data set decide (`DatasetSpec.reads`): its classes.

    Where the folder has no features of motion, also that none are read, though a recipe may ask for them.
    """
    without: dict[str, list[str]]
    without = {} if (find_root(root) / FEATS / MOTION).is_dir() else {"task_options.features": []}
    return {**class_settings_in(root), **without}
