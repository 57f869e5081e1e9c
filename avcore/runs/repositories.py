"""Where adapters are shared: a repository of the Hugging Face hub, or a folder that stands for one."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from avcore.backbones import ask_hub_once
from avcore.engine.files import write_atomic
from avcore.errors import AVCoreError, ConfigError, typed, why

__all__ = ["FILES", "Repository", "is_hub_name", "repository_of"]

FILES = ("adapter.safetensors", "adapter.json", "config.yaml", "results.json", "README.md")
"""All that is ever sent or taken; whatever else a repository holds stays there."""
NEEDED = ("adapter.safetensors", "adapter.json")

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w-][\w./-]*", re.ASCII)
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


class Repository(Protocol):
    """What `repository_of` finds."""

    @property
    def label(self) -> str:
        """As a user writes it."""

    @property
    def handed_on(self) -> str:
        """As others write it, who have no folders of this machine."""

    def names(self) -> list[str] | None:
        """What it holds, at its revision; None where there is no repository, nothing where there is no such revision.

        Raises:
            AVCoreError: it cannot be looked at.
        """

    def fetch(self) -> Path:
        """A folder with those of `FILES` that it holds; to be read only.

        Raises:
            AVCoreError: there is no such repository, it holds no adapter, or it cannot be read.
        """

    def check_writable(self) -> None:
        """Refuse at once what could never be written to.

        Raises:
            AVCoreError: nobody is logged in.
        """

    def add(self, folder: Path, names: Sequence[str], *, private: bool, message: str) -> str:
        """Write files of a folder into it, which is made if there is none; where they are now.

        Raises:
            AVCoreError: it cannot be written.
        """


def is_hub_name(text: str) -> bool:
    """Whether a text is ``owner/name`` or ``owner/name@revision``."""
    name, at, revision = text.partition("@")
    return bool(_NAME.fullmatch(name)) and (not at or bool(_REVISION.fullmatch(revision))) and ".." not in text


def repository_of(text: str, *, revision: str | None = None) -> Repository:
    """The repository that a user means.

    Args:
        text: ``owner/name[@revision]`` on the hub, or the path of a folder, which begins with ``/``, ``.`` or ``~``.
        revision: of the hub's repository, where the text names none.

    Raises:
        ConfigError: it is neither, or a folder with a revision.
    """
    if text.startswith(("/", ".", "~")):
        if revision is not None:
            raise ConfigError(f"{text} is a folder, which has no revisions: leave out --revision {revision}.")
        return _Folder(Path(text).expanduser())
    name, _, asked = text.partition("@")
    if asked and revision is not None:
        raise ConfigError(f"'{text}' names a revision already: leave out --revision {revision}.")
    revision = revision if revision is not None else asked or None
    full = name if revision is None else f"{name}@{revision}"
    if text.endswith("@") or not is_hub_name(full):
        raise ConfigError(
            f"'{full}' is no repository: write owner/name or owner/name@revision for the hub, or a path that begins "
            f"with ./ or / for a folder."
        )
    return _Hub(name, revision)


@dataclass(frozen=True)
class _Folder:
    """A folder in which lie the files that a repository would have."""

    path: Path

    @property
    def label(self) -> str:
        return str(self.path)

    @property
    def handed_on(self) -> str:
        return f"./{self.path.resolve().name}"

    def names(self) -> list[str] | None:
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            raise AVCoreError(f"{self.path} is a file; a repository is a folder.")
        try:
            return sorted(one.name for one in self.path.iterdir())
        except OSError as error:
            raise AVCoreError(f"Cannot read {self.path}: {why(error)}.") from error

    def check_writable(self) -> None:
        pass

    def fetch(self) -> Path:
        names = self.names()
        if names is None:
            raise AVCoreError(f"There is no folder {self.path}.")
        _refuse_others(self.label, names)
        return self.path

    def add(self, folder: Path, names: Sequence[str], *, private: bool, message: str) -> str:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AVCoreError(f"Cannot make {self.path}: {why(error)}.") from error
        for name in names:
            write_atomic(self.path / name, (folder / name).read_bytes())
        return str(self.path)


@dataclass(frozen=True)
class _Hub:
    """A model repository of the hub."""

    name: str
    revision: str | None

    @property
    def label(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def handed_on(self) -> str:
        return self.label

    def names(self) -> list[str] | None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        with self._asking("look at"):
            try:
                info = HfApi().model_info(self.name, revision=self.revision)
            except RevisionNotFoundError:
                return []
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
        return sorted(one.rfilename for one in info.siblings or ())

    def fetch(self) -> Path:
        from huggingface_hub import HfApi, constants, hf_hub_download

        with self._asking("fetch"):
            # Out of reach, what was fetched before is found by the same call, or nothing is.
            if constants.HF_HUB_OFFLINE:
                from huggingface_hub import snapshot_download

                return Path(snapshot_download(self.name, revision=self.revision, local_files_only=True))
            info = HfApi().model_info(self.name, revision=self.revision)
            names = [one.rfilename for one in info.siblings or ()]
            _refuse_others(self.label, names)
            # By the revision's own name, under which it is found again without a network.
            found = [hf_hub_download(self.name, one, revision=self.revision) for one in FILES if one in names]
        return Path(found[0]).parent

    def add(self, folder: Path, names: Sequence[str], *, private: bool, message: str) -> str:
        from huggingface_hub import CommitOperationAdd, HfApi

        with self._asking("write to"):
            hub = HfApi()
            hub.create_repo(self.name, private=private, exist_ok=True)
            if self.revision is not None:
                hub.create_branch(self.name, branch=self.revision, exist_ok=True)
            # One commit: a reader sees all of it or nothing.
            done = hub.create_commit(
                self.name,
                [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names],
                commit_message=message,
                revision=self.revision,
            )
        return str(done.commit_url)

    def check_writable(self) -> None:
        from huggingface_hub import get_token

        if get_token() is None:
            raise AVCoreError(f"There is no token to write to '{self.name}' on the hub with: {_LOGIN}.")

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Within it, what the hub's library raises becomes one line; an unreachable hub is found out within seconds."""
        with ask_hub_once():
            try:
                yield
            except AVCoreError:
                raise
            except Exception as error:  # of whichever library it asks with
                raise AVCoreError(f"Cannot {doing} '{self.label}': {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        from huggingface_hub import errors

        match error:
            case errors.GatedRepoError():
                return f"it is gated. Ask for access on its page, and {_LOGIN}."
            case errors.RevisionNotFoundError():
                return f"the hub has '{self.name}', but no revision '{self.revision}' of it."
            case errors.RepositoryNotFoundError():
                return (
                    f"the hub has no such model repository (a data set or a space is none), or it is private: {_LOGIN}."
                )
            case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
                return (
                    "the hub cannot be reached (no network, or HF_HUB_OFFLINE is set), and no whole copy was fetched "
                    "before. Name a folder with its files instead."
                )
            case errors.HfHubHTTPError() if error.response is not None and error.response.status_code in (401, 403):
                return (
                    f"the hub does not allow it ({error.response.status_code}). Check the token's rights, or {_LOGIN}."
                )
            case _:
                told = " ".join((getattr(error, "server_message", None) or str(error) or "no reason").split())
                return f"{type(error).__name__}: {told.rstrip('.')}."


def _refuse_others(label: str, names: Sequence[str]) -> None:
    """Refuse what is no adapter, and a repository whose files want to lie elsewhere than in their folder."""
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
            raise AVCoreError(f"'{label}' names a file {name!r}, outside of its folder: nothing is taken from it.")
    lacking = [one for one in NEEDED if one not in names]
    if lacking:
        kind = "an adapter of PEFT" if "adapter_config.json" in names else "no adapter of avcore"
        raise AVCoreError(
            f"'{label}' holds no {' and no '.join(lacking)}: it is {kind}. avcore takes what `avcore push` or "
            "save_adapter wrote."
        )


def copy_files(source: Path, target: Path) -> list[str]:
    """Copy those of `FILES` that a folder has into another one, all or none; their names."""
    names = [name for name in FILES if (source / name).is_file()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".tmp-") as aside:
            for name in names:
                shutil.copyfile(source / name, Path(aside) / name)
            for name in names:
                (Path(aside) / name).replace(target / name)
    except OSError as error:
        raise AVCoreError(f"Cannot write {typed(target)}: {why(error)}.") from error
    return names
