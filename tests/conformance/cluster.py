"""What AIStore's reader asks of a cluster: the listing of a bucket, in one page, and its objects."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@contextmanager
def serve(bucket: str, files: Mapping[str, str]) -> Iterator[str]:
    """The URL of a cluster with one bucket, which holds local files under these names."""

    class Cluster(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = unquote(urlsplit(self.path).path)
            if path == f"/v1/buckets/{bucket}":
                self._answer(_listing(files, json.loads(body)["value"].get("prefix", "")), "application/msgpack")
            else:
                self._answer(Path(files[path.removeprefix(f"/v1/objects/{bucket}/")]).read_bytes(), "application/x-tar")

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _listing(files: Mapping[str, str], prefix: str) -> bytes:
    import msgspec

    entries = [{"n": name, "s": Path(file).stat().st_size} for name, file in files.items() if name.startswith(prefix)]
    return msgspec.msgpack.encode({"UUID": "listing", "ContinuationToken": "", "Flags": 0, "Entries": entries})
