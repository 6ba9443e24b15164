"""`serve`: the transform server."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from shardmill.cli.arguments import CredentialsFile, DatasetFile, open_dataset
from shardmill.cli.output import Output
from shardmill.errors import ConfigurationError


def serve(
    file: DatasetFile,
    transform: Annotated[
        str | None, typer.Option(help="which of the file's `transforms`, if it has several", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="the address to listen on; 0.0.0.0 in a container")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 8000,
    requests: Annotated[int, typer.Option(min=1, help="in work at once; others get a 503")] = 128,
    body_bytes: Annotated[int, typer.Option(min=1, help="of a body; larger ones get a 413")] = 1 << 30,
    held_bytes: Annotated[int, typer.Option(min=1, help="of all bodies and results, most on the disk")] = 4 << 30,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds that a client or a target may be silent")] = 30.0,
    credentials: CredentialsFile = None,
) -> None:
    """Serve the dataset's transform by AIStore's ETL contract. SHARDMILL_SERVE_TOKEN, if set, is asked for."""
    output = Output()
    with output.readable_errors():
        try:
            from shardmill.serving.listening import Listener, listen
            from shardmill.serving.server import DatasetServer
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"`shardmill serve` needs the extra `serve`: pip install 'shardmill[serve]' ({error})"
            ) from error
        from shardmill.serving.limits import Limits

        logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr, level=logging.WARNING)
        logging.getLogger("shardmill.serve").setLevel(logging.INFO)
        limits = Limits(requests=requests, body_bytes=body_bytes, held_bytes=held_bytes, timeout=timeout)
        server = DatasetServer(open_dataset(file, credentials), transform, limits)
        with listen(host, port) as socket:
            address = f"[{host}]" if ":" in host else host
            output.say(f"serving on http://{address}:{socket.getsockname()[1]}")
            Listener(server, limits).run(sockets=[socket])
