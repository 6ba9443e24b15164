"""`python -m benchmarks.comparison.server FOLDER`: serve files on this machine, for a peer that takes URLs."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.comparison.usage import end_with_parent


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as a downloader opens."""

    request_queue_size = 1024


def main() -> None:
    """Print the address, and serve until the process is ended."""
    end_with_parent()
    with Server(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=sys.argv[1])) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
