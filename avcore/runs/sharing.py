"""Runs for others: `push` writes one into a repository, `pull` makes a folder of one that avcore's commands take."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from avcore.config.leaves import flatten
from avcore.config.sections import to_tree
from avcore.engine.files import sha256, write_atomic, write_json
from avcore.engine.result import RunResult
from avcore.errors import AVCoreError, ConfigError, typed
from avcore.runs.adapter import check_shared, read_description, write_adapter
from avcore.runs.base import Run, load_run, missing_run
from avcore.runs.card import card_of
from avcore.runs.repositories import FILES, copy_files, repository_of

__all__ = ["Shared", "pull", "push"]


@dataclass(frozen=True)
class Shared:
    """What was sent, or taken.

    Attributes:
        repository: as a user writes it, with its revision.
        files: bytes of each file.
        place: where they are now: an address or a folder; None where nothing was written.
    """

    repository: str
    files: Mapping[str, int]
    place: str | None


def push(
    directory: str | Path,
    repository: str,
    *,
    license: str,
    private: bool = True,
    revision: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    message: str | None = None,
) -> Shared:
    """Share a finished run: what it trained, its configuration, its results, a card. No frozen weights, data or code.

    Args:
        directory: of the run; its best weights are shared.
        repository: ``owner/name`` on the hub, made if there is none, or the path of a folder (see `repository_of`).
        license: of what was trained, by the hub's name of it, such as ``cc-by-4.0``.
        private: whether a repository that is made is seen by its owner only; one that exists stays as it is.
        revision: a branch of the hub's repository, made if there is none.
        force: replace files that are there already.
        dry_run: make the files, say what would be sent, and neither ask nor write anywhere.
        message: of the commit.

    Raises:
        AVCoreError: the run is not finished, the repository holds such files already, cannot be reached or written.
    """
    directory = Path(directory)
    if not license.strip():
        raise ConfigError("--license is empty: name the licence of what was trained, such as cc-by-4.0.")
    target = repository_of(repository, revision=revision)
    if not (directory / "results.json").is_file():
        raise AVCoreError(missing_run(directory))
    status = RunResult.read(directory / "results.json").status
    if status != "finished":
        raise AVCoreError(f"{directory} is {status}: go on with avcore run --resume {typed(directory)} first.")
    if not dry_run:
        target.check_writable()
        there = [name for name in target.names() or () if name in FILES]
        if there and not force:
            raise AVCoreError(
                f"'{target.label}' holds {', '.join(there)} already. --force replaces them; another name, or on the "
                "hub --revision NAME for a branch, leaves them as they are."
            )
    run = load_run(directory)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        _write(run, folder, name=target.handed_on, license=license)
        sizes = {name: (folder / name).stat().st_size for name in FILES}
        place = None
        if not dry_run:
            text = message or f"{run.results.label or 'head alone'} on {run.results.task}, shared by avcore"
            place = target.add(folder, FILES, private=private, message=text)
    return Shared(target.label, sizes, place)


def pull(repository: str, out: str | Path, *, revision: str | None = None, force: bool = False) -> Shared:
    """Fetch a shared run into a folder, which `load_adapter` and `load_run` read.

    Args:
        repository: ``owner/name[@revision]`` on the hub, or the path of a folder.
        out: the folder, new or empty.
        revision: a branch, a tag or a commit.
        force: replace what was pulled into ``out`` before.

    Raises:
        AVCoreError: the repository cannot be read, holds no adapter, is damaged or asks for files of this machine;
            ``out`` holds something. Nothing is written then.
    """
    source, folder = repository_of(repository, revision=revision), Path(out)
    if folder.exists() and not folder.is_dir():
        raise AVCoreError(f"{folder} is a file; name a new folder with -o.")
    if folder.is_dir() and any(folder.iterdir()):
        if (folder / "checkpoints").exists() or not (folder / "adapter.json").is_file():
            raise AVCoreError(f"{folder} holds something else than what was pulled: name a new folder with -o.")
        if not force:
            raise AVCoreError(f"{folder} holds an adapter already: --force replaces it, -o names another folder.")
    fetched = source.fetch()
    check_shared(fetched, source.label)
    names = copy_files(fetched, folder)
    for stale in (set(FILES) - set(names)) if force else ():
        (folder / stale).unlink(missing_ok=True)
    return Shared(source.label, {name: (folder / name).stat().st_size for name in names}, str(folder))


def _write(run: Run, folder: Path, *, name: str, license: str) -> None:
    """All of `FILES`; the description says the digests of the others, but of the card, which people may edit."""
    write_adapter(run.model, folder)
    description = read_description(folder / "adapter.json")
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(description["config"])).encode())
    write_json(folder / "results.json", _portable(run.results.to_json(), run))
    card = card_of(
        run.results, run.config, run.registry, name=name, license=license, digest=description["frozen_digest"]
    )
    write_atomic(folder / "README.md", _portable(card, run).encode())
    digests = {one: sha256(folder / one) for one in FILES if one not in ("adapter.json", "README.md")}
    write_json(folder / "adapter.json", {**description, "shared": digests})


def _portable(content: Any, run: Run) -> Any:
    """Texts of results, such as why a clip was skipped, without the folders of this machine."""
    values = [str(value) for value in flatten(to_tree(run.config)).values()]
    paths = {*filter(lambda value: value.startswith("/"), values), str(run.directory.resolve()), str(Path.home())}
    ordered = sorted((one.rstrip("/") for one in paths if one.strip("/")), key=len, reverse=True)

    def clean(value: Any) -> Any:
        match value:
            case str():
                for path in ordered:
                    value = value.replace(path, path.rpartition("/")[2])
                return value
            case Mapping():
                return {clean(key): clean(one) for key, one in value.items()}
            case list() | tuple():
                return [clean(one) for one in value]
            case _:
                return value

    return clean(content)
