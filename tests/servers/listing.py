"""A bucket of a million objects that are names only: GCS's listing at the wire, and nothing else of it.

fake-gcs-server holds some thousand objects at most. This process answers `objects.list` of the JSON API with prefix,
startOffset, pageToken, maxResults and fields, as https://cloud.google.com/storage/docs/json_api/v1/objects/list says;
`PUT /o/<name>` adds an object or overwrites it, `DELETE /o/<name>` removes one.
"""

import bisect
import json
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import Request, urlopen

from tests.servers.processes import Child, Server, accepts

BUCKET = "names"
FIRST_DAY = "2026-01-01"
_FIRST_GENERATION = 1_700_000_000_000_000
"""Microseconds since the epoch, as Google's are."""


class ListingServer(Server):
    """`days` folders `raw/YYYY-MM-DD/`, from 2026-01-01 on, with `objects` objects in all.

    A sample has an object for each of the `suffixes`, which are in order.
    """

    def __init__(self, objects: int, days: int, suffixes: Sequence[str] = ("jpg",)) -> None:
        super().__init__("listing")
        self._arguments = [str(objects), str(days), *suffixes]

    def put(self, name: str) -> None:
        """Add an object, or overwrite it."""
        urlopen(Request(f"{self.url}/o/{quote(name)}", method="PUT")).close()

    def delete(self, name: str) -> None:
        """Remove an object."""
        urlopen(Request(f"{self.url}/o/{quote(name)}", method="DELETE")).close()

    def _start(self) -> None:
        port = self._ports[0]
        command = [sys.executable, "-m", "tests.servers.listing", str(port), *self._arguments]
        root = str(Path(__file__).parents[2])
        self._children.append(Child(command, self._folder / "log", {"PYTHONPATH": root}))
        self._children[0].wait_until(lambda: accepts(port))


class _Bucket:
    def __init__(self, objects: int, days: int, suffixes: Sequence[str]) -> None:
        from datetime import date, timedelta

        first, samples = date.fromisoformat(FIRST_DAY), range(objects // days // len(suffixes))
        folders = [f"raw/{first + timedelta(days=day)}" for day in range(days)]
        self.names = [f"{folder}/IMG_{n:07}.{suffix}" for folder in folders for n in samples for suffix in suffixes]
        self.generations: dict[str, int] = {}

    def put(self, name: str) -> None:
        position = bisect.bisect_left(self.names, name)
        if position == len(self.names) or self.names[position] != name:
            self.names.insert(position, name)
        self.generations[name] = self.generations.get(name, 1) + 1

    def delete(self, name: str) -> None:
        del self.names[bisect.bisect_left(self.names, name)]

    def page(self, query: dict[str, str]) -> bytes:
        start = max(query.get("pageToken", ""), query.get("startOffset", ""), query.get("prefix", ""))
        position = bisect.bisect_left(self.names, start)
        names = self.names[position : position + int(query.get("maxResults", 1000))]
        prefix = query.get("prefix", "")
        below = [name for name in names if name.startswith(prefix)]
        item = self._few_fields if "items(" in query.get("fields", "") else self._all_fields
        answer: dict[str, object] = {"items": [item(name) for name in below]}
        if len(below) == len(names) and position + len(names) < len(self.names):
            answer["nextPageToken"] = self.names[position + len(names)]
        return json.dumps(answer).encode()

    def _few_fields(self, name: str) -> dict[str, str]:
        generation = str(_FIRST_GENERATION + self.generations.get(name, 1))
        return {"name": name, "size": "110000", "generation": generation, "updated": "2026-01-01T00:00:00.000Z"}

    def _all_fields(self, name: str) -> dict[str, str]:
        path = f"storage/v1/b/{BUCKET}/o/{quote(name, safe='')}"
        return self._few_fields(name) | {
            "kind": "storage#object",
            "id": f"{BUCKET}/{name}/1",
            "selfLink": f"https://www.googleapis.com/{path}",
            "mediaLink": f"https://storage.googleapis.com/download/{path}?alt=media",
            "bucket": BUCKET,
            "metageneration": "1",
            "contentType": "image/jpeg",
            "storageClass": "STANDARD",
            "md5Hash": "1B2M2Y8AsgTpgAmY7PhCfg==",
            "crc32c": "AAAAAA==",
            "etag": "CJjJ3p2Mw4kDEAE=",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "timeStorageClassUpdated": "2026-01-01T00:00:00.000Z",
        }


def _serve(port: int, objects: int, days: int, suffixes: Sequence[str]) -> None:
    bucket = _Bucket(objects, days, suffixes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer

        def do_GET(self) -> None:
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            self._answer(bucket.page(query))

        def do_PUT(self) -> None:
            bucket.put(unquote(self.path.removeprefix("/o/")))
            self._answer(b"{}")

        def do_DELETE(self) -> None:
            bucket.delete(unquote(self.path.removeprefix("/o/")))
            self._answer(b"{}")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
