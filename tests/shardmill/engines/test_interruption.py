"""A run that is killed, at any moment, costs the work of that moment and nothing else."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import psutil
import pyarrow.parquet as pq
import pytest

from shardmill.dataset import load_dataset
from shardmill.graph.orphans import remove_orphans
from shardmill.shards.ustar import read_samples
from shardmill.shards.verify import verify

SAMPLES = 120
REJECTS = 3
FIELDS = {
    "max_reject_ratio": 0.1,
    "transform": {"operations": [{"operation": "Resize", "arguments": {"size": 160}}]},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, images) -> Path:
    folder = tmp_path_factory.mktemp("source")
    keys = images(folder, SAMPLES)
    for key in keys[:REJECTS]:
        (folder / f"{key}.jpg").write_bytes(b"")
    return folder


class Watcher:
    """Looks at every file under a final name, all the time, and remembers those that were not whole."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broken: list[str] = []
        self.seen: set[tuple[str, int]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self._look()

    def _look(self) -> None:
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if name != ".shardmill-scratch"]
            for name in names:
                file = Path(folder, name)
                try:
                    identity = (str(file), file.stat().st_mtime_ns)
                    if identity not in self.seen:
                        data = file.read_bytes()
                        self.seen.add(identity)
                        self._parse(file, data)
                except FileNotFoundError:
                    continue  # superseded meanwhile

    def _parse(self, file: Path, data: bytes) -> None:
        try:
            if file.suffix == ".tar":
                assert sum(1 for _ in read_samples(io.BytesIO(data), str(file))) > 0
            elif file.suffix == ".parquet":
                pq.read_table(io.BytesIO(data))
            elif file.suffix == ".json":
                json.loads(data)
        except Exception as error:
            self.broken.append(f"{file}: {error}")


def processes_of(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_until_gone(session: int, seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while (left := processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def finished(root: Path) -> dict[str, int]:
    """The shards that stand whole: the index is published last."""
    files = {}
    for index in root.rglob("*.index.parquet"):
        stem = index.name.removesuffix(".index.parquet")
        files[index.name] = index.stat().st_mtime_ns
        data = [file for file in root.rglob(f"{stem}-*") if file.suffix in (".tar", ".parquet")]
        for file in data:  # it waits, and is moved among the data; its bytes stay
            files[file.name] = file.stat().st_ino
    return files


def assert_complete(file: Path, root: Path) -> None:
    dataset = load_dataset(file)
    for asset in ("raw_images", "webdataset_shards", "transformed_shards", "embeddings", "embedding_map"):
        shards = dataset.stored(asset, "p")
        assert shards is not None
        assert list(verify(shards)) == []
        expected = SAMPLES if asset == "raw_images" else SAMPLES - REJECTS
        assert shards.commit.total_samples == expected
        if asset == "webdataset_shards":
            assert shards.commit.total_rejects == REJECTS
    rows = pq.read_table(dataset.folder("embeddings", "p").removeprefix("file://"))["key"].to_pylist()
    assert len(rows) == len(set(rows)) == SAMPLES - REJECTS
    assert [str(left) for left in root.rglob(".shardmill-scratch/*")] == []


@pytest.fixture(scope="module")
def seconds_of_a_run(tmp_path_factory: pytest.TempPathFactory, source: Path, write_dataset, command) -> float:
    base = tmp_path_factory.mktemp("whole")
    file = write_dataset(base / "d.yaml", source, base / "root", **FIELDS)
    started = time.monotonic()
    with Watcher(base / "root") as watcher:
        subprocess.run([*command, "run", str(file)], check=True, capture_output=True)
    assert watcher.broken == []
    assert len(watcher.seen) > 40
    assert_complete(file, base / "root")
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_a_run_killed_at_a_random_moment_is_completed_by_the_next(
    tmp_path: Path, source: Path, seconds_of_a_run: float, write_dataset, command, run_chain, number: int
) -> None:
    """Every third kill meets two worker processes."""
    root = tmp_path / "root"
    file = write_dataset(tmp_path / "d.yaml", source, root, **FIELDS)
    workers = "8" if number % 3 == 0 else "2"
    moment = seconds_of_a_run * (number + random.Random(number).random()) / 6
    with Watcher(root) as watcher:
        process = subprocess.Popen(
            [*command, "run", str(file), "--workers", workers],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moment)
        process.kill()
        process.wait()
        assert wait_until_gone(process.pid, 60) == []  # workers die with their parent
        before = finished(root)
        if number in (2, 5):
            subprocess.run([*command, "run", str(file)], check=True, capture_output=True)
        else:
            run_chain(load_dataset(file))
    assert watcher.broken == []
    assert_complete(file, root)
    after = finished(root)
    assert {name: after.get(name) for name in before} == before


KILL_AT = """
    # Kills itself at the n-th change that it makes to the store, before or after it, for every n: in a fork each time.
    import os, shutil, signal, sys
    from pathlib import Path

    import pyarrow.parquet

    from shardmill import graph
    from shardmill.dataset import load_dataset
    from shardmill.engines import LocalEngine
    from shardmill.storage.local import LocalStore

    template, base, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    changes = 0

    def killing(method, at):
        def call(*arguments):
            global changes
            changes += 1
            here = changes == at
            if here and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = method(*arguments)
            if here:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call

    os.environ["HOME_OF_TEST"] = str(template)
    graph.Planner(load_dataset(template / "d.yaml")).check()  # loads torch once, not in every fork
    for at in range(1, 1000):
        home = base / str(at)
        shutil.copytree(template, home)
        child = os.fork()
        if child == 0:
            for name in ("publish", "replace", "move", "delete"):
                setattr(LocalStore, name, killing(getattr(LocalStore, name), at))
            os.environ["HOME_OF_TEST"] = str(home)
            for asset, _ in graph.run(load_dataset(home / "d.yaml"), "p", LocalEngine(1)):
                if asset == "webdataset_shards":
                    break
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            shutil.rmtree(home)
            assert os.WEXITSTATUS(status) == 0
            print(at - 1)
            break
"""


@pytest.mark.slow
@pytest.mark.parametrize("update", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_before_or_after_any_change_to_the_store_is_completed_by_the_next(
    tmp_path: Path, images, write_dataset, run_chain, monkeypatch: pytest.MonkeyPatch, update: bool, when: str
) -> None:
    """A first run, and one that replaces shards and removes those that it supersedes."""
    source, template = tmp_path / "raw", tmp_path / "template"
    keys = set(images(source, 30))
    template.mkdir()
    root = "{{ env.HOME_OF_TEST }}/root"
    file = write_dataset(template / "d.yaml", source, Path(root), shards={"max_samples": 12})
    if update:
        monkeypatch.setenv("HOME_OF_TEST", str(template))
        run_chain(load_dataset(file), last="webdataset_shards")
        images(source, 1, first=500)
        (source / "image_00003.jpg").unlink()
        (source / "image_00003.cls").unlink()
        keys = keys - {"image_00003"} | {"image_00500"}
    script = tmp_path / "kill.py"
    script.write_text(dedent(KILL_AT))
    base = tmp_path / "killed"
    done = subprocess.run([sys.executable, str(script), str(template), str(base), when], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12
    homes = sorted(base.iterdir())
    assert len(homes) == int(done.stdout)
    for home in homes:
        monkeypatch.setenv("HOME_OF_TEST", str(home))
        dataset = load_dataset(home / "d.yaml")
        before = finished(home)
        for shards in run_chain(dataset, last="webdataset_shards").values():
            assert list(verify(shards)) == [], home
        found = [sample.key for shard in shards.shards for sample, _ in shard.read(dataset.storage)]
        assert sorted(found) == sorted(keys), home
        list(remove_orphans(dataset, grace_seconds=3600))  # it sweeps up scratch space of the dead, however young
        assert [str(left) for left in home.rglob(".shardmill-scratch/*")] == []
        after = finished(home)
        assert {name: after[name] for name in before if name in after} == {
            name: before[name] for name in before if name in after
        }


@pytest.fixture
def long_run(tmp_path: Path, images, write_dataset, command, write_module) -> Iterator:
    """`long_run(workers)`: a run in a session of its own, as soon as its transform has made something.

    From then on a sample takes three seconds, while the file `slow` is there. `begun` has a file for each sample.
    """
    images(tmp_path / "raw", 160)
    slow = tmp_path / "slow"
    slow.touch()
    begun = tmp_path / "begun"
    begun.mkdir()
    made = "d/_shardmill/transformed_shards/p/*.index.parquet"
    module = write_module(
        f"""
        import time
        from pathlib import Path

        def transform(sample):
            Path({str(begun)!r}, sample.key).touch()
            if Path({str(slow)!r}).exists():
                time.sleep(3 if any(Path({str(tmp_path / "root")!r}).glob({made!r})) else 0.1)
            return sample
        """
    )
    operations = [{"operation": f"{module}:transform"}]
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", transform={"operations": operations})
    started: list[subprocess.Popen[str]] = []

    def start(workers: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, "run", str(file), "--workers", str(workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        deadline = time.monotonic() + 300
        while not list((tmp_path / "root").glob(made)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    yield start, file
    for process in started:
        for left in processes_of(process.pid):
            left.kill()
        process.communicate()


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_ctrl_c_ends_a_run_soon_quietly_and_wholly(tmp_path: Path, long_run, run_chain, workers: int) -> None:
    start, file = long_run
    process = start(workers)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group
    before = len(list((tmp_path / "begun").iterdir()))
    _, errors = process.communicate(timeout=300)
    assert before < 80
    assert len(list((tmp_path / "begun").iterdir())) - before < 40  # of 160
    assert process.returncode not in (0, None)
    assert "Traceback" not in errors
    assert len(errors.splitlines()) <= 2
    assert "interrupted: what is stored is whole" in errors
    assert wait_until_gone(process.pid, 60) == []
    assert not list(tmp_path.rglob(".shardmill-scratch/*"))
    (tmp_path / "slow").unlink()
    made = run_chain(load_dataset(file))
    assert made["embeddings"].commit.total_samples == 160
    assert made["transformed_shards"].made < len(made["transformed_shards"].commit.shards)


@pytest.mark.slow
def test_ctrl_c_while_workers_start_is_quiet_too(tmp_path: Path, images, write_dataset, command) -> None:
    images(tmp_path / "raw", 160)
    file = write_dataset(tmp_path / "d.yaml", tmp_path / "raw", tmp_path / "root", **FIELDS)
    for delay in (0.1, 0.4, 0.8):
        process = subprocess.Popen(
            [*command, "run", str(file), "--workers", "8"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while len(processes_of(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode not in (0, None)
        assert "Traceback" not in errors, errors
        assert wait_until_gone(process.pid, 60) == []
