"""As much of Kubernetes' API as Dagster needs to start a run: it keeps the Jobs, and starts none."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml


class KubernetesAPI:
    """Accepts Jobs within a `with` block; every Job is active for ever."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def write_kubeconfig(self, file: Path) -> None:
        """A configuration that leads a client here."""
        named = {
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "test", **named}))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        jobs = self.jobs

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                jobs[f"{self.path}/{job['metadata']['name']}"] = job
                self._answer(201, job)

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                job = jobs.get(path.removesuffix("/status"))
                if job is not None:
                    self._answer(200, {**job, "status": {"active": 1}})
                elif path.endswith(("/pods", "/jobs", "/events")):
                    self._answer(200, {"items": []})
                else:
                    self._answer(404, {"kind": "Status", "status": "Failure", "code": 404})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
