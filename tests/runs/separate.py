"""``avcore`` in a process of its own, with the toy world as its only plugin."""

import contextlib
import ctypes
import importlib
import importlib.util
import io
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def avcore_with_the_toy_world(cache: str, arguments: Sequence[str]) -> None:
    """What the command line does with these arguments; leaves the process as it does."""
    spec = importlib.util.spec_from_file_location("avcore_toy_world", Path(__file__).with_name("toy_world.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["avcore_toy_world"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # A process takes its way of starting others from its parent; by another way loaders could not import the module.
    multiprocessing.set_start_method("fork", force=True)
    os.environ["AVCORE_CACHE"] = cache
    os.environ.pop("AVCORE_DATA", None)

    from avcore.cli import main
    from avcore.registry import Registry

    registry = Registry.from_modules({"toy-world": module.Plugin()})
    for name in ("avcore.runs.start", "avcore.runs.base", "avcore.assemble", "avcore.cli.options"):
        vars(importlib.import_module(name))["load_registry"] = lambda: registry
    main(list(arguments))


def one_of(
    world: int, command: Callable[[Sequence[str]], None], rank: int, port: int, arguments: Sequence[str]
) -> None:
    """What torchrun would start: a command in the process of this rank."""
    told = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    command(arguments)


def as_traced(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    """A command in which graphs of torch.compile are run as they were traced, without a compiler."""
    import torch

    with torch.compiler.set_stance(force_backend="eager"):
        command(arguments)


def impatient(command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    """A command that waits 3 s for another process that hangs."""
    import avcore.ranks

    avcore.ranks.PATIENCE = 3.0
    command(arguments)


NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000
READ_ONLY, REMOUNT, RECURSIVE, PRIVATE = 1, 32, 1 << 14, 1 << 18


def on_a_disk_of_its_own(command: Callable[[Sequence[str]], None], directory: str, said: str) -> None:
    """Begin a run on a file system that no other process sees, and go on while it is read-only, full and sound again.

    Into the file ``said`` goes, for each, the code with which the command left and what it said on stderr; nothing
    where this machine lets nobody mount. For a process of its own.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user = os.geteuid()
    if libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        return
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")

    def mount(kind: bytes, at: str, flags: int, options: bytes = b"") -> None:
        if libc.mount(kind, at.encode(), kind, flags, options):
            raise OSError(ctypes.get_errno(), "mount")

    mount(b"none", "/", RECURSIVE | PRIVATE)
    mount(b"tmpfs", directory, 0, b"size=4m")
    filler = Path(directory, "filler")

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(256)):
                pass

    stages: dict[str, Callable[[], object]] = {
        "sound": lambda: None,
        "read-only": lambda: mount(b"tmpfs", directory, REMOUNT | READ_ONLY),
        "full": lambda: (mount(b"tmpfs", directory, REMOUNT), fill()),
        "sound again": filler.unlink,
    }
    found = {}
    for epochs, (stage, prepare) in enumerate(stages.items(), start=1):
        prepare()
        arguments = ["run", "--plugin", "rowing", "--task", "listen", "--out", f"{directory}/run", "--resume"]
        with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
            try:
                command([*arguments, "--epochs", str(epochs)])
            except SystemExit as left:
                found[stage] = [left.code, stderr.getvalue()]
    Path(said).write_text(json.dumps(found))
