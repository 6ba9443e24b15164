"""The chain between any two stores: the same bytes as on a local disk, and nothing lost when a store misbehaves."""

import io
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from shardmill import graph
from shardmill.dataset import WHOLE, Dataset, DatasetSpec
from shardmill.engines import LocalEngine
from shardmill.errors import AccessDeniedError, EngineError
from shardmill.shards.commit import ShardEntry
from shardmill.shards.layout import is_data_name
from shardmill.shards.reader import ShardSet
from shardmill.shards.verify import read_with_webdataset, verify
from shardmill.storage import Storage
from tests.servers import GCSServer, S3Server
from tests.servers.fixtures import StartProxy
from tests.servers.places import BUCKETS, KINDS, Kind, NewPlace, Place, credentials_file
from tests.shardmill.conftest import CallCommand
from tests.small import ASSETS, BASIS, states

SAMPLES = 24
FIELDS: dict[str, Any] = {
    "name": "d",
    "partitions": ["p"],
    "shards": {"max_samples": 8},
    "embedder": {},
    "transform": {"operations": [{"operation": "CenterCrop", "arguments": {"size": 48}}]},
}
LAST: str = "transformed_shards"
Made = Mapping[str, ShardSet]


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory, images: Any) -> Path:
    """A local folder of small photographs with their classes."""
    folder = tmp_path_factory.mktemp("raw")
    images(folder, SAMPLES)
    return folder


def dataset_of(source: Place, root: Place, **fields: Any) -> Dataset:
    spec = {**FIELDS, "source": {"uri": source.uri}, "root": root.uri, **fields}
    return Dataset(DatasetSpec.model_validate(spec), Storage((*source.credentials, *root.credentials)))


def run(dataset: Dataset, last: str = LAST, engine: LocalEngine | None = None) -> dict[str, ShardSet]:
    made: dict[str, ShardSet] = {}
    for asset, shards in graph.run(dataset, "p", engine or LocalEngine(2)):
        made[asset] = shards
        if asset == last:
            break
    return made


def digests(made: Made) -> dict[tuple[str, str], str]:
    """Of the bytes of every tar, by asset and shard."""
    return {
        (asset, entry.id): entry.sha256
        for asset, shards in made.items()
        for entry in shards.commit.shardlist
        if shards.commit.suffix == "tar"
    }


def assert_stored(made: Made, root: Place, orphans: bool = False) -> None:
    """Everything verifies, webdataset reads the tars, and nothing else stands there; `orphans` may wait beside it."""
    data: set[str] = set()
    side: set[str] = set()
    for shards in made.values():
        assert list(verify(shards)) == []
        if shards.commit.suffix == "tar":
            assert read_with_webdataset(shards)[0] == shards.commit.total_samples
        name = shards.layout.name
        data |= {f"d/{name}/{entry.data}" for entry in shards.commit.shardlist}
        names = {file for file in shards.commit.files if not is_data_name(file)} | {"index.json", "rejects.parquet"}
        side |= {f"d/_shardmill/{name}/{file}" for file in names}
    hints = "_shardmill/samples/"
    found = {name for name in root.contents() if "shardmill-" not in name and not name.startswith(hints)}
    assert {name for name in found if "/_shardmill/" not in name} == data
    if not orphans:
        assert {name for name in found if "/_shardmill/" in name} == side


@pytest.fixture(scope="session")
def reference(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """The digests of the tars from a local folder to another."""
    root = tmp_path_factory.mktemp("reference")
    return digests(run(dataset_of(Place("file", f"file://{raw}"), Place("file", f"file://{root}"))))


@pytest.mark.parametrize(("source_kind", "root_kind"), list(product(KINDS, KINDS)))
def test_any_store_to_any_store_gives_the_same_bytes_and_remakes_only_what_changed(
    place: NewPlace, raw: Path, images: Any, tmp_path: Path, reference: Any, source_kind: Kind, root_kind: Kind
) -> None:
    source, root = place(source_kind), place(root_kind)
    source.fill(raw)
    dataset = dataset_of(source, root)
    first = run(dataset)
    assert digests(first) == reference
    assert_stored(first, root)

    before = root.contents()
    again = run(dataset)
    assert [shards.made for shards in again.values()] == [0, 0, 0]
    assert root.contents() == before

    [key] = images(tmp_path / "one", 1, first=500)
    source.put(f"{key}.jpg", (tmp_path / "one" / f"{key}.jpg").read_bytes())
    source.put(f"{key}.cls", b"1")
    last = run(dataset)
    assert last["webdataset_shards"].commit.total_samples == SAMPLES + 1
    assert all(1 <= shards.made <= 2 for shards in last.values())
    assert_stored(last, root)


def test_one_source_gives_equal_digests_on_every_store_to_the_end_of_the_chain(place: NewPlace, raw: Path) -> None:
    """Whole chains: lineage and all, down to the bytes of the embeddings and of the map."""
    source = place("gs")
    source.fill(raw)
    commits = []
    for kind in KINDS:
        root = place(kind)
        dataset = dataset_of(source, root)
        made = run(dataset, "embedding_map")
        assert_stored(made, root)
        assert states(dataset) == ["up to date"] * 5
        commits.append({asset: shards.commit for asset, shards in made.items()})
        assert {shards.made for shards in run(dataset, "embedding_map").values()} == {0}
    for asset in ASSETS:
        assert len({each[asset].digest for each in commits}) == 1
        assert len({tuple(entry.sha256 for entry in each[asset].shards) for each in commits}) == 1


def table(shards: ShardSet, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for url in shards.urls:  # as any tool reads them
        rows += pq.read_table(io.BytesIO(shards.storage.read(url)), columns=columns).to_pylist()
    return sorted(rows, key=lambda row: row["key"])


@pytest.mark.slow
def test_the_whole_chain_on_each_store_gives_the_same_vectors_and_points(place: NewPlace, raw: Path) -> None:
    found = []
    for kind in ("file", "s3"):
        source, root = place(kind), place(kind)
        source.fill(raw)
        made = run(dataset_of(source, root), "embedding_map")
        assert_stored(made, root)
        found.append(
            (
                table(made["embeddings"], ["key", "embedding", "cls"]),
                table(made["embedding_map"], ["key", "x", "y", "cls"]),
            )
        )
    assert found[0] == found[1]
    assert len(found[0][0]) == SAMPLES


# Whose credentials.


@pytest.mark.parametrize("kind", BUCKETS)
def test_source_and_root_have_identities_of_their_own(place: NewPlace, raw: Path, reference: Any, kind: Kind) -> None:
    partner, root = place(kind), place(kind)
    partner.fill(raw)
    reader = place(kind, at=partner, may="r")
    with pytest.raises(AccessDeniedError):
        reader.put("x", b"1")
    with pytest.raises(AccessDeniedError):
        list(root.__class__(kind, partner.uri, _for(root, partner.uri)).storage.list(partner.uri))
    assert digests(run(dataset_of(reader, root))) == reference


def _for(place: Place, prefix: str) -> tuple[Any, ...]:
    return tuple(item.model_copy(update={"prefix": prefix}) for item in place.credentials)


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_root_that_may_not_be_written_shows_before_any_shard_is_made(
    place: NewPlace, raw: Path, tmp_path: Path, kind: Kind
) -> None:
    owner = place(kind)
    reader = place(kind, at=owner, may="r")
    told: list[Any] = []
    dataset = dataset_of(Place("file", f"file://{raw}"), reader)
    with pytest.raises(AccessDeniedError) as caught:
        list(graph.run(dataset, "p", LocalEngine(2), told.append))
    permission = {"gs": "storage.objects.create", "s3": "s3:PutObject"}[kind]
    for part in (owner.uri, reader.email or reader.identity, permission):
        assert part in str(caught.value)
    assert told == []
    assert owner.contents() == {}


# Runs that are cut off.


class Interrupting(LocalEngine):
    """Calls `then` once, after the first shard of the asset that packs."""

    then: Callable[[], object]

    def run(self, make: Any, *arguments: Any) -> Generator[ShardEntry]:
        for entry in super().run(make, *arguments):
            yield entry
            if make.stage.name == "pack" and "then" in self.__dict__:
                self.__dict__.pop("then")()


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("kind", BUCKETS)
def test_a_run_whose_identity_is_revoked_commits_nothing_and_goes_on_when_it_is_restored(
    request: pytest.FixtureRequest, place: NewPlace, raw: Path, reference: Any, kind: Kind, committed: bool
) -> None:
    root = place(kind)
    source = Place("file", f"file://{raw}")
    before_that = run(dataset_of(source, root, shards={"max_samples": 5})) if committed else {}
    before = {name: state for name, state in root.contents().items() if name.endswith("index.json")}
    gcs: GCSServer | None = request.getfixturevalue("gcs_server") if kind == "gs" else None
    s3: S3Server | None = request.getfixturevalue("s3_server") if kind == "s3" else None

    def revoke() -> None:
        if gcs:
            gcs.revoke(root.email)
        if s3 and root.keys:
            s3.revoke(root.keys)

    engine = Interrupting(1)
    engine.__dict__["then"] = revoke
    dataset = dataset_of(source, root)
    started = time.monotonic()
    with pytest.raises((EngineError, AccessDeniedError)) as caught:
        run(dataset, engine=engine)
    assert time.monotonic() - started < 90  # half of the deadline
    assert not isinstance(caught.value, EngineError) or caught.value.final
    assert (root.email or root.identity) in str(caught.value)
    assert re.search(r"wrong(, expired)? or revoked|lacks the permission", str(caught.value))
    if gcs:
        gcs.restore(root.email)
    if s3 and root.keys:
        s3.allow(root.keys)
    after = root.contents()
    for name, state in before.items():
        if "raw_images" not in name:
            assert after[name] == state
    assert committed or "d/_shardmill/webdataset_shards/p/index.json" not in after
    made = run(dataset)
    wanted = {entry.fingerprint for entry in made["webdataset_shards"].commit.shards}
    stood = {entry.fingerprint for shards in before_that.values() for entry in shards.commit.shards}
    assert made["webdataset_shards"].made == len(wanted - stood) - 1
    assert digests(made) == reference
    assert_stored(made, root)


COMMAND_FIELDS = {**FIELDS, "shards": {"max_samples": 3}}


def dataset_file(tmp_path: Path, source: Place, root: Place, **fields: Any) -> Path:
    file = tmp_path / "d.yaml"
    spec = {**COMMAND_FIELDS, "source": {"uri": source.uri}, "root": root.uri, **fields}
    file.write_text(yaml.safe_dump({"attributes": spec}))
    return file


@pytest.mark.parametrize("kind", ["gs", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_killed_command_costs_the_shard_at_hand_and_nothing_else(
    place: NewPlace, raw: Path, tmp_path: Path, command: list[str], kind: Kind
) -> None:
    source, root = place(kind), place(kind)
    source.fill(raw)
    file = dataset_file(tmp_path, source, root)
    credentials, environment = credentials_file(tmp_path / "credentials.yaml", source, root)
    arguments = [*command, "run", str(file), "--credentials", str(credentials), "--workers", "1"]
    process = subprocess.Popen(arguments, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    folder = f"{root.uri}/d/_shardmill/webdataset_shards/p"
    while not any(".index.parquet" in info.uri for info in root.storage.list(folder)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = root.contents("d/_shardmill/webdataset_shards")
    assert "d/_shardmill/webdataset_shards/p/index.json" not in before
    assert root.contents("d/webdataset_shards") == {}  # nobody's glob sees a run that has not committed
    finished = {name for name in before if name.endswith(".index.parquet")}
    waiting = {name.rpartition("/")[2]: state[0] for name, state in before.items() if name.endswith(".tar")}
    dataset = dataset_of(source, root, shards=COMMAND_FIELDS["shards"])
    if kind == "s3":
        done = subprocess.run(arguments, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        run(dataset)
    after = root.contents()
    assert {name: after[name] for name in finished} == {name: before[name] for name in finished}
    data = {name.rpartition("/")[2]: state[0] for name, state in after.items() if "d/webdataset_shards/p/" in name}
    assert all(data[name] == waiting[name] for name in waiting.keys() & data.keys())
    assert len(waiting.keys() & data.keys()) >= len(finished)
    places = {**dict.fromkeys(ASSETS, "p"), BASIS: WHOLE}
    stored = {asset: found for asset, at in places.items() if (found := dataset.stored(asset, at))}
    assert_stored(stored, root, orphans=True)  # what was uploaded at that moment may wait there still


# A bad network.


@pytest.mark.parametrize("rate", [0.05, pytest.param(0.2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", BUCKETS)
def test_a_bad_network_changes_nothing_but_the_time(
    request: pytest.FixtureRequest,
    place: NewPlace,
    raw: Path,
    reference: Any,
    fault_proxy: StartProxy,
    kind: Kind,
    rate: float,
) -> None:
    source, root, direct = place(kind), place(kind), place(kind)
    source.fill(raw)
    expected = run(dataset_of(source, direct))
    server = request.getfixturevalue({"gs": "gcs_server", "s3": "s3_server"}[kind])
    proxy = fault_proxy(server.url, rate=rate, seed=7, stall_seconds=0.5)
    behind = dataset_of(source.through(proxy.url), root.through(proxy.url))
    started = time.monotonic()
    made = run(behind)
    assert time.monotonic() - started < 300
    faults = sum(proxy.counts[fault] for fault in proxy.kinds)
    assert faults >= 3
    assert digests(made) == reference
    assert {asset: shards.commit.digest for asset, shards in made.items()} == {
        asset: shards.commit.digest for asset, shards in expected.items()
    }
    assert {shards.made for shards in run(behind).values()} == {0}
    assert_stored({asset: dataset_of(source, root).stored(asset, "p") for asset in made}, root)  # type: ignore[misc]


# The commands.


@pytest.fixture
def stored(place: NewPlace, raw: Path, request: pytest.FixtureRequest) -> tuple[Place, Place, Dataset]:
    """A dataset whose tars are stored: source, root."""
    kind: Kind = request.param
    source, root = Place("file", f"file://{raw}"), place(kind)
    dataset = dataset_of(source, root)
    run(dataset)
    return source, root, dataset


@pytest.mark.parametrize("stored", KINDS, indirect=True)
def test_gc_removes_what_no_index_names_once_it_is_old(
    stored: tuple[Place, Place, Dataset], tmp_path: Path, call_command: CallCommand
) -> None:
    source, root, dataset = stored
    file = dataset_file(tmp_path, source, root)
    credentials, environment = credentials_file(tmp_path / "credentials.yaml", root)
    kept = root.contents()
    zeros, eights = "0" * 12, "0" * 8
    orphans = [f"d/webdataset_shards/p/{number:06x}-{zeros}-{eights}.tar" for number in range(3)]
    orphans.append(f"d/_shardmill/raw_images/p/000000-{zeros}.index.parquet")
    orphans.append(f"d/_shardmill/webdataset_shards/p/staged/000000-{zeros}-{eights}.tar")
    orphans.append(f"d/_shardmill/embedding_map/p/000000-{zeros}-{eights}.png")
    orphans.append(f"d/embeddings/gone/000000-{zeros}-{eights}.parquet")  # of a partition that is no longer declared
    others = ["d/webdataset_shards/p/notes.txt", "d/webdataset_shards/readme.tar", "d/_shardmill/mine.txt"]
    for name in [*orphans, *others]:
        root.put(name, b"rubbish")
    gc = [*("gc", file, "--credentials", credentials, "--grace-hours")]

    done = call_command(*gc, 1, **environment)
    assert (done.returncode, done.stdout) == (0, "0 files, 0 bytes\n")
    done = call_command(*gc, 0, "--dry-run", **environment)
    assert sorted(done.stdout.splitlines()[:-1]) == sorted(f"would delete {root.uri}/{name}" for name in orphans)
    assert set(orphans) < root.contents().keys()

    index = "d/_shardmill/raw_images/p/index.json"
    whole = root.storage.read(f"{root.uri}/{index}")
    root.put(index, whole[:100])
    done = call_command(*gc, 0, **environment)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"{index} is damaged" in done.stderr
    left = [name for name in orphans if "raw_images" in name]
    assert set(orphans) & root.contents().keys() == set(left)
    root.put(index, whole)

    done = call_command(*gc, 0, **environment)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 files, 7 bytes")
    found = root.contents()
    assert set(orphans) & found.keys() == set()
    assert set(others) <= found.keys()
    assert {name: found[name][0] for name in kept} == {name: state[0] for name, state in kept.items()}
    assert {shards.made for shards in run(dataset).values()} == {0}


@pytest.mark.parametrize("kind", ["gs", pytest.param("s3", marks=pytest.mark.slow)])
def test_the_commands_work_on_a_bucket_with_a_credentials_file(
    place: NewPlace, raw: Path, tmp_path: Path, command: list[str], call_command: CallCommand, kind: Kind
) -> None:
    source, root = place(kind), place(kind)
    source.fill(raw)
    reader = place(kind, at=source, may="r")
    file = dataset_file(tmp_path, source, root)
    credentials, environment = credentials_file(tmp_path / "credentials.yaml", reader, root)
    secrets = [line for value in environment.values() for line in value.split("\\n") if len(line) > 15]
    assert not any(secret in credentials.read_text() for secret in secrets)

    def call(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = call_command(*arguments, **environment, SHARDMILL_CREDENTIALS=str(credentials))
        assert done.returncode == status, done.stdout + done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in secrets)
        return done

    assert call("check-storage", root.uri).stdout.count(": ok") == 5
    assert call("check-storage", "--source", source.uri, "--credentials", credentials).stdout.count(": ok") == 2
    refused = call("check-storage", source.uri, status=1).stdout
    permission = {"gs": "storage.objects.create", "s3": "s3:PutObject"}[kind]
    identity = reader.email or reader.identity
    assert refused.startswith(f"{source.uri} as {identity}\n")
    assert f"{identity} lacks the permission {permission}" in refused

    said = call("run", file, "--credentials", credentials).stdout
    assert re.search(r"webdataset_shards: 24 samples, (\d+) shards \(\1 made\)", said)
    assert call("run", file).stdout.count("(0 made)") == 6
    states = [line.split("\t")[2] for line in call("partitions", file).stdout.splitlines()]
    assert states == ["state", *["up to date"] * 6]
    assert call("verify", file).stdout.count(": ok") == 6
    shown = call("show", file, "p", "--key", "image_00007").stdout
    assert f"{source.uri}/image_00007.jpg" in shown
    assert "embeddings: 1280 dimensions" in shown

    missing = next(iter(environment))
    arguments = [*command, "run", str(file), "--credentials", str(credentials)]
    lacking = {**os.environ, **environment, missing: ""}
    done = subprocess.run(arguments, env=lacking, capture_output=True, text=True)  # this process has its stores already
    assert done.returncode == 1
    assert done.stderr == f"error: the credentials need the environment variable {missing}, which is not set\n"
