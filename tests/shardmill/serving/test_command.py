"""`shardmill serve` as a process: it says where it listens, serves, logs a line a request, and ends as it is told."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from shardmill.samples import EncodedSample
from tests.shardmill.serving.conftest import tar_of, until

SLOW = """
    import pathlib, time

    def transform(sample):
        pathlib.Path({begun!r}).touch()
        while not pathlib.Path({go_on!r}).exists():
            time.sleep(0.01)
        return sample
"""


@contextmanager
def served(command: list[str], *arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL."""
    process = subprocess.Popen(
        [*command, "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving on (http://127\.0\.0\.1:\d+)\n", line)
        assert found, (line, process.stderr.read() if process.stderr else "")
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_it_serves_and_sigterm_lets_the_request_in_work_end(
    tmp_path: Path, images, write_dataset, command: list[str], write_module
) -> None:
    images(tmp_path / "raw", 1)
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    transform = {
        "operations": [{"operation": f"{write_module(SLOW.format(begun=str(begun), go_on=str(go_on)))}:transform"}]
    }
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", transform=transform)
    image = (tmp_path / "raw/image_00000.jpg").read_bytes()
    answers: list[httpx.Response] = []

    def ask(url: str) -> None:
        headers = {"authorization": "Bearer s3cret"}
        answers.append(httpx.put(f"{url}/pets/image.jpg", content=image, headers=headers, timeout=60))

    with served(command, file, SHARDMILL_SERVE_TOKEN="s3cret") as (process, url):
        assert httpx.put(f"{url}/pets/image.jpg", content=image).status_code == 401
        thread = threading.Thread(target=ask, args=(url,))
        thread.start()
        until(begun.exists)
        process.send_signal(signal.SIGTERM)
        until(lambda: not listens(url))
        go_on.touch()
        thread.join()
        out, log = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "")
    assert answers[0].content == image
    lines = [line for line in log.splitlines() if "PUT" in line]
    assert [re.search(r"PUT '/pets/image.jpg' (\d+), \d+ bytes in, \d+ out, [\d.]+ s", line)[1] for line in lines] == [  # type: ignore[index]
        "401",
        "200",
    ]
    assert "s3cret" not in log
    assert "Traceback" not in log


def listens(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_an_address_that_cannot_be_had_is_an_error(tmp_path: Path, images, write_dataset, call_command) -> None:
    images(tmp_path / "raw", 1)
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root")
    done = call_command("serve", file, "--host", "192.0.2.1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot listen on 192.0.2.1, port 8000" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "take another --port, or 0" in call_command("serve", file, "--port", port).stderr
    assert "has no transform 'x'" in call_command("serve", file, "--transform", "x").stderr


@pytest.mark.parametrize("missing", ["aistore", "uvicorn"])
def test_without_the_extra_it_says_which_to_install(tmp_path: Path, images, write_dataset, missing: str) -> None:
    images(tmp_path / "raw", 1)
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root")
    code = "import sys; sys.modules[sys.argv.pop(1)] = None; from shardmill.cli import app; app()"
    arguments = [sys.executable, "-c", code, missing, "serve", file]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'shardmill[serve]'" in done.stderr


def test_no_other_command_and_no_loader_imports_the_servers_libraries() -> None:
    code = (
        "import sys, shardmill.cli.serving, shardmill.cli.app, shardmill.loading.prepare, shardmill.serving\n"
        "print([name for name in ('aistore', 'fastapi', 'uvicorn', 'httpx', 'starlette') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_memory_is_bounded_by_the_limits_and_not_by_what_comes(
    tmp_path: Path, images, write_dataset, command: list[str]
) -> None:
    """Two gigabytes in shards, forty clients at once, and bombs among them: 300 MB more than at rest is enough."""
    images(tmp_path / "raw", 1)
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root")
    image = (tmp_path / "raw/image_00000.jpg").read_bytes()
    part = EncodedSample("image", {"jpg": image, "bin": bytes(1 << 20)})
    shard = tar_of(*(EncodedSample(f"image_{number:03d}", part.components) for number in range(50)))
    bomb = tar_of(EncodedSample("image", {"jpg": image, "png": png_of(30_000)}))
    statuses: list[int] = []

    def ask(url: str, number: int) -> None:
        content = bomb if number % 8 == 0 else shard
        statuses.append(httpx.put(f"{url}/pets/{number}.tar", content=content, timeout=600).status_code)

    with served(command, file, "--requests", "20", "--held-bytes", str(4 << 30)) as (process, url):
        assert httpx.put(f"{url}/pets/image.jpg", content=image).status_code == 200
        rest = psutil.Process(process.pid).memory_info().rss
        threads = [threading.Thread(target=ask, args=(url, number)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) << 10  # type: ignore[index]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 10
    assert peak - rest < 300 << 20, f"{(peak - rest) >> 20} MiB"


def png_of(side: int) -> bytes:
    """A picture of one colour: a few kB that become gigabytes."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()
