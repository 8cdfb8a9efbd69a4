"""As much of a Weights & Biases server as ``wandb sync`` and ``wandb.Api`` of 0.31 talk to.

It keeps the history of each run as the file stream defines it: a line has an offset, and what comes
to an offset that is taken replaces what was there.
"""

import gzip
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Variables = dict[str, Any]


class Endpoint(ThreadingHTTPServer):
    """A server on the loopback interface.

    Attributes:
        histories: Lines of history by run.
        files: What was uploaded, by run and name.
        refusing: Runs whose rows are answered with an error.
        requests: Operations and paths, in the order in which they came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.histories: dict[str, list[str]] = {}
        self.files: dict[str, bytes] = {}
        self.refusing: set[str] = set()
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """An environment in which W&B knows this server alone, and no user's settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        named = {"BASE_URL": self.url, "API_KEY": "k" * 40, "ERROR_REPORTING": "false"}
        folders = {f"WANDB_{name}_DIR": str(home) for name in ("CONFIG", "CACHE", "DATA")}
        return kept | {f"WANDB_{k}": v for k, v in named.items()} | folders | {"HOME": str(home)}

    def rows(self, run: str) -> list[dict[str, Any]]:
        """The history of a run."""
        return [json.loads(line) for line in self.histories.get(run, [])]

    def steps(self, run: str) -> list[int]:
        """The steps in it."""
        return [row["_step"] for row in self.rows(run)]

    def answer(self, operation: str, asked: Variables) -> Any:
        """The data with which a query is answered."""
        known = _ANSWERS.get(operation)
        return None if known is None else known(self, asked)

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        """Take what a file stream brings."""
        chunk = sent.get("files", {}).get("wandb-history.jsonl")
        if chunk:
            lines, offset = self.histories.setdefault(run, []), chunk["offset"]
            lines[offset : offset + len(chunk["content"])] = chunk["content"]


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """A server while the block lasts."""
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        sent = json.loads(self._body())
        if self.path.endswith("/file_stream"):
            self.server.requests.append(self.path)
            run = self.path.split("/")[4]
            if run in self.server.refusing:
                return self._reply({"error": "the disk of the server is full"}, 403)
            self.server.stream(run, sent)
            return self._reply({"exitcode": None, "limits": {}})
        operation = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
        name = operation[1] if operation else ""
        self.server.requests.append(name)
        return self._reply({"data": self.server.answer(name, sent.get("variables") or {})})

    def do_PUT(self) -> None:
        self.server.files[self.path.removeprefix("/upload/")] = self._body()
        self._reply({})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """Serve, though clients leave without a word when they end."""
        try:
            super().handle()
        except ConnectionResetError:
            self.close_connection = True

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, data: object, code: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


_VIEWER = {"id": "u", "entity": "local", "username": "local", "flags": "{}", "teams": {"edges": []}}
_ENTITY = {"id": "e", "name": "local"}


def _viewer(_: Endpoint, __: Variables) -> Any:
    return {"viewer": _VIEWER}


def _features(_: Endpoint, __: Variables) -> Any:
    return {"serverInfo": {"features": []}}


def _common(server: Endpoint, run: str) -> dict[str, Any]:
    lines = server.histories[run]
    texts = {"summaryMetrics": "{}", "config": "{}", "notes": "", "displayName": run}
    return {"id": run, "name": run, "tags": [], "historyLineCount": len(lines), **texts}


def _resume_status(server: Endpoint, asked: Variables) -> Any:
    run, bucket = asked["name"], None
    if run in server.histories:
        tails = {"historyTail": json.dumps(server.histories[run][-1:]), "eventsTail": "[]"}
        counts = {"logLineCount": 0, "eventsLineCount": 0, "wandbConfig": '{"t": 1}'}
        bucket = {**_common(server, run), **tails, **counts}
    return {"model": {"id": "p", "name": asked["project"], "entity": _ENTITY, "bucket": bucket}}


def _upsert(server: Endpoint, asked: Variables) -> Any:
    lines = server.histories.setdefault(asked["name"], [])
    project = {"id": "p", "name": asked["project"], "entity": _ENTITY}
    texts = {"displayName": asked["name"], "description": None, "config": asked["config"]}
    counts = {"sweepName": None, "historyLineCount": len(lines)}
    bucket = {"id": asked["name"], "name": asked["name"], "project": project, **texts, **counts}
    return {"upsertBucket": {"bucket": bucket, "inserted": not lines}}


def _uploads(server: Endpoint, asked: Variables) -> Any:
    places = [
        {"name": name, "uploadUrl": f"{server.url}/upload/{asked['run']}/{name}"}
        for name in asked["files"]
    ]
    return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": places}}


def _run(server: Endpoint, asked: Variables) -> Any:
    if asked["name"] not in server.histories:
        return {"project": {"run": None}}
    facts = {"projectId": "1", "state": "finished", "readOnly": False, "description": ""}
    facts |= {"createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00"}
    facts |= {"sweepName": None, "group": None, "jobType": None, "commit": None}
    facts |= {"systemMetrics": "{}", "user": {"name": "local", "username": "local"}}
    keys = {"historyKeys": {"lastStep": max(server.steps(asked["name"]), default=-1)}}
    return {"project": {"run": {**_common(server, asked["name"]), **facts, **keys}}}


def _parquet(server: Endpoint, asked: Variables) -> Any:
    history = {"parquetUrls": [], "liveData": server.rows(asked["runName"])}
    return {"project": {"run": {"parquetHistory": history}}}


def _sampled(server: Endpoint, asked: Variables) -> Any:
    spec = json.loads(asked["spec"])
    steps = [s for s in server.steps(asked["run"]) if spec["minStep"] <= s <= spec["maxStep"]]
    return {"project": {"run": {"sampledHistory": [[{"_step": step} for step in steps]]}}}


_ANSWERS: dict[str, Callable[[Endpoint, Variables], Any]] = {
    "Viewer": _viewer,
    "GetDefaultEntity": _viewer,
    "ServerFeaturesQuery": _features,
    "RunResumeStatus": _resume_status,
    "UpsertBucket": _upsert,
    "CreateRunFiles": _uploads,
    "Run": _run,
    "RunHistoryKeys": _run,
    "RunParquetHistory": _parquet,
    "SampledHistoryPage": _sampled,
}
