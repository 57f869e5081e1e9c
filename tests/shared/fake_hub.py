"""The hub's answers to what `huggingface_hub` asks for models, over HTTP on this machine, as its source reads them."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

__all__ = ["FakeHub", "fake_hub"]


class FakeHub:
    """Repositories: name -> branch -> file -> content; ``refused``: name -> status, and the hub's own code for it."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.asked: list[str] = []

    def commit(self, name: str, branch: str) -> str:
        """The name of the state of a branch."""
        files = self.repositories[name][branch]
        return hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: Any) -> None: ...

    def answer(self, content: Any = b"", status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def route(self) -> None:
        hub = self.hub
        hub.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        words = [unquote(word) for word in self.path.partition("?")[0].strip("/").split("/")]
        if words == [""]:
            return self.answer()
        if words == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                return self.answer({"error": "You already created this model repo", "url": self.url(name)}, 409)
            hub.repositories[name] = {"main": {".gitattributes": b""}}
            hub.private[name] = asked.get("private", asked.get("visibility") == "private")
            return self.answer({"url": self.url(name), "name": name})
        if words == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        api = words[:2] == ["api", "models"]
        name = "/".join(words[2:4] if api else words[:2])
        rest = words[4:] if api else words[2:]
        if name in hub.refused:
            status, code = hub.refused[name]
            return self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)
        if name not in hub.repositories:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        branches = hub.repositories[name]
        if rest[:1] == ["branch"]:
            branches[rest[1]] = dict(branches["main"])
            return self.answer()
        branch = rest[1] if len(rest) > 1 else "main"
        if branch not in branches:
            return self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        files = branches[branch]
        match rest[:1]:
            case [] | ["revision"]:
                siblings = [{"rfilename": one} for one in files]
                self.answer({"id": name, "sha": hub.commit(name, branch), "siblings": siblings, "private": False})
            case ["preupload"]:
                wanted = [one["path"] for one in json.loads(body)["files"]]
                self.answer(
                    {"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in wanted]}
                )
            case ["commit"]:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                commit = hub.commit(name, branch)
                self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.url(name)}/commit/{commit}"})
            case _:  # resolve
                content = files["/".join(rest[2:])]
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self.answer(content, ETag=etag, X_Repo_Commit=hub.commit(name, branch))

    do_GET = do_HEAD = do_POST = route

    def url(self, name: str) -> str:
        return f"http://{self.headers['Host']}/{name}"


@contextmanager
def fake_hub(patch: pytest.MonkeyPatch, cache: str) -> Iterator[FakeHub]:
    """Within it `huggingface_hub` asks nobody but this, and keeps what it fetches in ``cache``."""
    from huggingface_hub import constants

    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", cache)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setenv("HF_TOKEN", "hf_fake")
    patch.setenv("HF_HUB_DISABLE_XET", "1")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
