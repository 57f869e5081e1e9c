"""Reader of anybody's own videos: a folder for each class, with recordings of any container and length in it."""

from pathlib import Path

import torch
from torch import Tensor

from avcore.data.recordings import Recording, Recordings, find_videos, listed, within
from avcore.errors import DataError
from avcore.specs import RecordingSettings
from avcore.tasks import Clip, Task
from avcore_avar.folders import LAYOUT, find_folders
from avcore_avar.task import AVARTask

__all__ = ["OwnFolders", "settings_in"]


def settings_in(root: Path) -> dict[str, list[str]]:
    """The settings that the folders decide: the names of the classes (`DatasetSpec.reads`); one alone decides none."""
    classes = _Listing(root).classes
    return {"task_options.classes": list(classes)} if len(classes) > 1 else {}


class _Listing:
    """The videos below the folders of classes, and what else lies there."""

    def __init__(self, root: Path) -> None:
        folders = find_folders(root)
        self.recordings: list[Recording] = []
        self.empty: list[str] = []
        self.others = [within(path, root) for path in folders.beside]
        for split, name, folder in folders.classes:
            videos, others = find_videos(folder)
            self.others += [within(path, root) for path in others]
            self.recordings += [
                Recording(name=within(path, root), path=path, group=name, split=split) for path in videos
            ]
            if not videos:
                self.empty.append(within(folder, root))
        self.classes = tuple(sorted({one.group for one in self.recordings}))
        if not self.classes:
            raise DataError(f"'{root}' has no folder with a video in it. Put your videos there as {LAYOUT}.")


class OwnFolders(Recordings):
    """Recordings in a folder for each class, maybe below folders ``train``, ``val`` and ``test``, cut into clips.

    Classes are the names of the folders in alphabetical order; folders within one belong to it. `Clip.group` is the
    class.

    Raises:
        DataError: there is no class, or one that the task does not know.
    """

    def __init__(self, config: RecordingSettings, root: Path, task: Task | None = None) -> None:
        found = _Listing(Path(root))
        self.classes = found.classes
        if isinstance(task, AVARTask):
            unknown = [name for name in found.classes if name not in task.classes]
            if unknown and len(found.classes) == 1:
                raise DataError(
                    f"'{root}' has only folder '{unknown[0]}' with videos; two classes are needed at least. Put your "
                    f"videos there as {LAYOUT}."
                )
            if unknown:
                raise DataError(
                    f"'{root}' has the class {listed(unknown)}, which is not among task_options.classes "
                    f"({listed(task.classes)}): leave that setting out, and the names are taken from the folders."
                )
            self.classes = task.classes
        self._found = found
        super().__init__(config, found.recordings, Path(root))

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``label`` () int64: the index of the class."""
        return {"label": torch.tensor(self.classes.index(clip.group))}

    def notes(self) -> list[str]:
        """How the splits came about, what is filled up, and what else lies in the folder."""
        found = super().notes()
        for what, names in (
            ("Folders without a video", self._found.empty),
            ("Left out, no videos", self._found.others),
        ):
            if names:
                found.append(f"{what}: {listed(names)}.")
        return found
