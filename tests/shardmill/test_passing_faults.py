"""Faults that pass: once the cause is gone, the same command leaves the partition that never saw it."""

import os
import resource
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from shardmill import graph
from shardmill.dataset import WHOLE, Dataset
from shardmill.engines import LocalEngine
from shardmill.errors import EngineError, ShardmillError, TooManyRejectsError
from shardmill.shards.verify import verify
from shardmill.storage import S3Credentials, Storage
from tests.servers.places import Kind, NewPlace
from tests.servers.sqs import SQSServer
from tests.small import BASIS, states

Fault = Callable[[], object]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, images) -> Path:
    folder = tmp_path_factory.mktemp("passing") / "raw"
    images(folder, 40)
    return folder


def run(dataset: Dataset, before_packing: Fault = lambda: None) -> dict[str, str]:
    """Run the chain; asset → digest. The fault comes between the listing and the packing."""
    made = {}
    for asset, shards in graph.run(dataset, "p", LocalEngine(2)):
        made[asset] = shards.commit.digest
        if asset == "raw_images":
            before_packing()
    return made


@contextmanager
def away(file: Path) -> Iterator[Fault]:
    """What moves a file or folder away; it is back afterwards."""
    elsewhere = file.with_name(f"{file.name}.away").resolve().parent.parent / f"{file.name}.away"

    def move() -> None:
        file.rename(elsewhere)

    yield move
    elsewhere.rename(file)


def assert_as_if_nothing_had_been(dataset: Dataset, expected: dict[str, str]) -> None:
    assert run(dataset) == expected
    assert states(dataset) == ["up to date"] * 5
    for asset in expected:
        shards = dataset.stored(asset, WHOLE if asset == BASIS else "p")
        assert shards is not None
        assert list(verify(shards)) == []


@pytest.fixture(scope="module")
def expected(raw: Path, tmp_path_factory: pytest.TempPathFactory, make_dataset) -> dict[str, str]:
    return run(make_dataset(raw, tmp_path_factory.mktemp("expected")))


def test_one_file_away_between_list_and_pack(raw: Path, tmp_path: Path, make_dataset, expected) -> None:
    dataset = make_dataset(raw, tmp_path / "root", max_reject_ratio=0.1)
    with away(raw / "image_00007.jpg") as fault:
        run(dataset, fault)
        packed = dataset.stored("webdataset_shards", "p")
        assert packed is not None
        assert packed.commit.rejects_by_reason == {"object vanished": 1}
        [reject] = packed.rejects()
        assert (reject.key, reject.may_pass) == ("image_00007", True)
    assert "stale" in states(dataset)
    assert graph.is_stale(dataset, "p")
    assert_as_if_nothing_had_been(dataset, expected)
    assert not graph.is_stale(dataset, "p")


def test_too_many_files_away_fail_the_run_and_not_the_next(raw: Path, tmp_path: Path, make_dataset, expected) -> None:
    dataset = make_dataset(raw, tmp_path / "root", max_reject_ratio=0.01)
    with away(raw / "image_00007.jpg") as fault, pytest.raises(TooManyRejectsError) as caught:
        run(dataset, fault)
    assert not caught.value.final
    assert_as_if_nothing_had_been(dataset, expected)


@pytest.mark.parametrize("ratio", [0.01, 1.0])
def test_a_source_that_is_unmounted_for_a_moment(
    raw: Path, tmp_path: Path, make_dataset, expected, ratio: float
) -> None:
    """Whatever share of rejects is allowed: nothing is taken for deleted."""
    dataset = make_dataset(raw, tmp_path / "root", max_reject_ratio=ratio)
    with away(raw) as fault, pytest.raises(EngineError, match="Is the source mounted") as caught:
        run(dataset, fault)
    assert not caught.value.final
    assert dataset.stored("webdataset_shards", "p") is None
    assert_as_if_nothing_had_been(dataset, expected)


def test_an_object_replaced_and_put_back(raw: Path, tmp_path: Path, make_dataset, place: NewPlace) -> None:
    kind: Kind = "s3"
    source = place(kind)
    source.fill(raw)
    whole = (raw / "image_00007.jpg").read_bytes()

    def dataset_of(root: str) -> Dataset:
        dataset = make_dataset(raw, tmp_path / root, max_reject_ratio=0.1)
        spec = dataset.spec.model_copy(update={"source": dataset.spec.source.model_copy(update={"uri": source.uri})})
        return Dataset(spec, source.storage)

    never = run(dataset_of("never"))
    dataset = dataset_of("root")
    run(dataset, lambda: source.put("image_00007.jpg", b"something else"))
    packed = dataset.stored("webdataset_shards", "p")
    assert packed is not None
    assert packed.commit.rejects_by_reason == {"object changed": 1}
    source.put("image_00007.jpg", whole)
    assert_as_if_nothing_had_been(dataset, never)


def test_an_object_that_is_archived_is_a_reject_that_says_so_and_is_tried_again(
    raw: Path, tmp_path: Path, make_dataset, sqs_server: SQSServer
) -> None:
    """A lifecycle rule moved it to a class of storage that has to be restored. moto answers as S3 does."""
    bucket = f"archive-{uuid.uuid4().hex[:8]}"
    keys = sqs_server.keys
    s3 = sqs_server.client("s3", keys)
    s3.create_bucket(Bucket=bucket)
    for number in range(12):
        data = (raw / f"image_{number:05}.jpg").read_bytes()
        frozen = {"StorageClass": "GLACIER"} if number == 5 else {}
        s3.put_object(Bucket=bucket, Key=f"{number}.jpg", Body=data, **frozen)
    credentials = S3Credentials(
        endpoint=sqs_server.url,
        access_key_id=keys.access_key_id,
        secret_access_key=keys.secret_access_key,
        region=sqs_server.region,
        addressing="path",
    )
    spec = make_dataset(raw, tmp_path / "root", max_reject_ratio=0.2).spec
    source = spec.source.model_copy(update={"uri": f"s3://{bucket}"})
    dataset = Dataset(spec.model_copy(update={"source": source}), Storage((credentials,)))
    run(dataset)
    packed = dataset.stored("webdataset_shards", "p")
    assert packed is not None
    [reject] = packed.rejects()
    assert (reject.reason, reject.may_pass) == ("object archived", True)
    assert "InvalidObjectState" in reject.detail
    s3.restore_object(Bucket=bucket, Key="5.jpg", RestoreRequest={"Days": 1})
    run(dataset)
    packed = dataset.stored("webdataset_shards", "p")
    assert packed is not None
    assert (packed.commit.total_samples, packed.commit.total_rejects) == (12, 0)


def test_a_local_file_that_is_overwritten_while_it_is_read_is_never_packed_torn(
    raw: Path, tmp_path: Path, make_dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place, and of the same size."""
    from shardmill.storage.local import LocalStore

    copied = tmp_path / "raw"
    shutil.copytree(raw, copied)
    victim = copied / "image_00007.jpg"
    whole, opened = victim.read_bytes(), LocalStore.open

    def open_and_be_overtaken(self: LocalStore, uri: str) -> object:
        stream, info = opened(self, uri)
        if uri.endswith(victim.name) and victim.read_bytes() == whole:
            with victim.open("r+b") as writer:
                writer.write(whole[: len(whole) // 2][::-1])
            os.utime(victim, ns=(0, 10**18))
        return stream, info

    dataset = make_dataset(copied, tmp_path / "root", max_reject_ratio=0.1)
    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "open", open_and_be_overtaken)
        run(dataset)
    packed = dataset.stored("webdataset_shards", "p")
    assert packed is not None
    [reject] = packed.rejects()
    assert (reject.key, reject.reason, reject.may_pass) == ("image_00007", "object changed", True)


LITTLE_MEMORY = """
    import resource, sys
    from pathlib import Path
    from shardmill import graph
    from shardmill.dataset import load_dataset
    from shardmill.engines import LocalEngine

    dataset = load_dataset(Path(sys.argv[1]))
    for asset, _ in graph.run(dataset, "p", LocalEngine(1)):
        if asset == "webdataset_shards":
            graph.Planner(dataset).check()  # all libraries are loaded
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
"""


def test_a_lack_of_memory_rejects_nothing(raw: Path, tmp_path: Path, make_dataset, write_dataset, write_module) -> None:
    """The transform wants more than there is; then there is enough."""
    transform = {"operations": [{"operation": "Resize", "arguments": {"size": [9000, 9000]}}]}
    shrink = {"operation": "CenterCrop", "arguments": {"size": 32}}
    transform["operations"].append(shrink)
    two = tmp_path / "two"
    two.mkdir()
    for name in ("image_00000.jpg", "image_00001.jpg"):
        (two / name).write_bytes((raw / name).read_bytes())
    file = write_dataset(tmp_path / "d.yaml", two, tmp_path / "root", transform=transform)
    done = subprocess.run(
        [sys.executable, "-c", dedent(LITTLE_MEMORY), str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "transform failed on shard" in done.stderr
    assert "image_0000" in done.stderr  # which sample it was
    dataset = make_dataset(two, tmp_path / "root", transform=transform)
    assert dataset.stored("transformed_shards", "p") is None
    never = run(make_dataset(two, tmp_path / "never", transform=transform))
    assert_as_if_nothing_had_been(dataset, never)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2.9 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError(12, "Cannot allocate memory"),
        OSError("out of memory error when reading image file"),
        RuntimeError("can't start new thread"),
    ],
)
def test_every_way_of_saying_that_memory_lacks_is_known(error: Exception, tmp_path: Path) -> None:
    from shardmill.memory import lacks_memory

    assert lacks_memory(error)
    wrapped = ValueError("cannot resize")
    wrapped.__cause__ = error
    assert lacks_memory(wrapped)


def test_other_errors_are_not_lack_of_memory() -> None:
    from shardmill.memory import lacks_memory

    for error in (ValueError("broken data stream"), OSError(2, "No such file"), ShardmillError("x"), RuntimeError("")):
        assert not lacks_memory(error)
