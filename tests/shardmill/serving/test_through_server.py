"""The loader's end: what comes through a server is what is made here, each sample is tried, counted or rejected."""

import io
import pickle
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from itertools import islice
from pathlib import Path

import pytest
import torch

from shardmill.errors import ConfigurationError, Rejected, ServerError
from shardmill.loading.feed import Samples
from shardmill.loading.loader import Loader
from shardmill.loading.prepare import Prepare
from shardmill.loading.sources import open_source
from shardmill.loading.stream import ShardStream
from shardmill.loading.through_server import ThroughServer
from shardmill.samples import EncodedSample
from shardmill.transforms import build_transform
from tests.shardmill.serving.conftest import SEEDED, Serve, answering, tar_of, until

SAMPLES = 4
CODE = """
    def transform(sample):
        if sample.components["cls"] == b"0":
            return None
        if sample.components["cls"] == b"1":
            raise ValueError("a one")
        return [sample.child(name, sample.components) for name in ("a", "b")]
"""


@pytest.fixture
def samples(dataset) -> list[EncodedSample]:
    folder = Path(dataset.spec.source.uri)
    return [
        EncodedSample(
            f"image_{n:05d}", {name: (folder / f"image_{n:05d}.{name}").read_bytes() for name in ("cls", "jpg")}
        )
        for n in range(SAMPLES)
    ]


@pytest.fixture
def answers():
    """`answers[:] = [503, 503]`: what a server of no use says, one after the other, and then breaks connections."""
    said: list[int] = []
    seen = Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            seen["requests"] += 1
            body = self.rfile.read(int(self.headers["content-length"]))
            if not said:
                self.close_connection = True
                return
            status = said.pop(0)
            data = body if status == 200 else b'{"reason": "a reason", "detail": "in detail"}'
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        yield url, said, seen


@pytest.mark.parametrize("epoch", [None, 0, 5])
def test_inline_and_server_give_the_same_bytes(dataset, samples, serve: Serve, epoch: int | None) -> None:
    here = build_transform(dataset.spec.transform.spec)
    with serve(dataset) as serving:
        there = pickle.loads(pickle.dumps(ThroughServer(serving.url)))
        for sample in samples:
            assert there(sample, epoch) == here(sample, epoch)


def test_none_several_and_rejects_come_through_as_they_are(
    tmp_path: Path, samples, make_dataset, serve: Serve, write_module
) -> None:
    transform = {"operations": [{"operation": f"{write_module(CODE)}:transform"}]}
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform=transform)
    with serve(dataset) as serving:
        through = ThroughServer(serving.url)
        none, failed, two, _ = samples
        assert through(none, 0) == []
        assert [made.key for made in through(two, 0)] == ["image_00002~a", "image_00002~b"]
        with pytest.raises(Rejected, match="a one") as rejected:
            through(failed, 0)
        with pytest.raises(Rejected) as here:
            build_transform(dataset.spec.transform.spec)(failed, 0)
        assert rejected.value.args == here.value.args


def test_a_loader_gets_tensors_of_what_the_offline_stage_stores(dataset, samples, serve: Serve) -> None:
    here = build_transform(dataset.spec.transform.spec)
    with serve(dataset) as serving:
        prepare = Prepare(transform=ThroughServer(serving.url))
        for sample in samples:
            [made] = prepare(sample, {"width": 7}, 3)
            [stored] = here(sample, 3)
            [expected] = Prepare()(stored, {"width": 7}, 3)
            assert made.keys() == expected.keys()
            assert torch.equal(made["jpg"], expected["jpg"])
            assert (made["__key__"], made["cls"], made["width"]) == (sample.key, expected["cls"], 7)


NAMES = [
    "./000001.jpg", "a/../b c.jpg", "ünï/ö.jpeg", f"{'long' * 30}.jpg", "/root.jpg", "http://a/b.jpg", "q?x=1#2.jpg",
    "__meta.jpg", "new\nline.jpg", "p%41.JPG", "plain.jpg",
]  # fmt: skip


def test_samples_of_tars_of_others_come_through_under_their_own_names(
    tmp_path: Path, dataset, samples, serve: Serve
) -> None:
    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in NAMES:
            member = tarfile.TarInfo(name)
            member.size = len(samples[0].components["jpg"])
            tar.addfile(member, io.BytesIO(samples[0].components["jpg"]))
    with serve(dataset) as serving:
        here, there, plain = (
            list(ShardStream(tmp_path / "theirs.tar", transform=transform, decode=False))
            for transform in (dataset.transform(), ThroughServer(serving.url), None)
        )
    assert here == there
    assert [sample.keys() for sample in here] == [sample.keys() for sample in plain]
    assert [sample["__key__"] for sample in here] == [sample["__key__"] for sample in plain]


def test_threads_share_it(dataset, samples, serve: Serve) -> None:
    from concurrent.futures import ThreadPoolExecutor

    here = build_transform(dataset.spec.transform.spec)
    with serve(dataset, requests=3) as serving, ThreadPoolExecutor(8) as threads:
        through = ThroughServer(serving.url)
        assert list(threads.map(through, samples * 10)) == [here(sample) for sample in samples] * 10


@pytest.mark.parametrize("passing", [503, 502, 504])
def test_a_busy_server_is_asked_again(answers, samples, passing: int) -> None:
    url, said, seen = answers
    said[:] = [passing, passing, 200]
    assert ThroughServer(url)(samples[0]) == [samples[0]]
    assert seen["requests"] == 3


def test_patience_ends(answers, samples) -> None:
    url, said, seen = answers
    said[:] = [503] * 2
    with pytest.raises(ServerError, match=r"gives no result for 0.3 s; RemoteDisconnected") as error:
        ThroughServer(url, patience=0.3)(samples[0])
    assert not error.value.final
    assert seen["requests"] > 2
    with pytest.raises(ServerError, match="Connection refused"):
        ThroughServer("http://127.0.0.1:9", patience=0)(samples[0])


def test_patience_ends_when_the_loop_does(answers, samples: list[EncodedSample]) -> None:
    url, said, seen = answers
    said[:] = [503] * 10_000
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(ThroughServer(url, patience=60).until(stop), samples[0])
        until(lambda: seen["requests"] > 1)
        stop.set()
        with pytest.raises(ServerError, match="before it was given up"):
            waits.result(timeout=30)


def test_a_loop_that_is_left_waits_for_no_busy_server(
    samples: list[EncodedSample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Semaphore(0), list[bool]()

    def answer(through: ThroughServer, path: str, body: bytes) -> tuple[int, bytes]:
        if "image_00000" not in path:
            begun.release()
            ended.append(through._stop.wait(10))
        return 200, body

    monkeypatch.setattr(ThroughServer, "_answer", answer)
    (tmp_path / "a.tar").write_bytes(tar_of(*samples))
    stream = ShardStream(tmp_path / "a.tar", transform=ThroughServer("http://busy"), decode=False)
    batches = iter(Loader(stream, 1))
    next(batches)
    assert begun.acquire(timeout=10)
    batches.close()
    assert ended
    assert all(ended)


def test_an_error_carries_the_servers_reason_and_is_not_tried_again(answers, samples) -> None:
    url, said, seen = answers
    said[:] = [500, 400, 422]
    for final in (False, True):
        with pytest.raises(ServerError, match="image_00000: a reason: in detail") as error:
            ThroughServer(url)(samples[0])
        assert pickle.loads(pickle.dumps(error.value)).final is final
    with pytest.raises(Rejected, match="a reason: in detail"):
        ThroughServer(url)(samples[0])
    assert seen["requests"] == 3


def test_the_token_comes_from_the_environment(dataset, samples, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(dataset, token="s3cret") as serving:
        through = ThroughServer(serving.url)
        with pytest.raises(ServerError, match="401 for image_00000: no token"):
            through(samples[0])
        monkeypatch.setenv("SHARDMILL_SERVE_TOKEN", "s3cret")
        assert through(samples[0])
    assert b"s3cret" not in pickle.dumps(through)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://user:password@a", "http://a?b=c"])
def test_a_url_that_is_no_server(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no server"):
        ThroughServer(url)


def test_the_loader_reads_through_it_in_its_own_order_and_goes_on_where_it_was(
    tmp_path: Path, images, make_dataset, run_chain, serve: Serve
) -> None:
    """As inline: each sample once, the same bytes, also when it is interrupted and the server is busy."""
    images(tmp_path / "raw", 40)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform=SEEDED)
    shards = run_chain(dataset, last="webdataset_shards")["webdataset_shards"]

    def loader(transform) -> Loader:
        made = Loader(ShardStream(shards, shuffle=True, buffer=7, transform=transform, decode=False), batch_size=4)
        made.set_epoch(2)
        return made

    def given(batches) -> list[tuple[str, bytes]]:
        return [each for batch in batches for each in zip(batch["__key__"], batch["jpg"], strict=True)]

    expected = given(loader(dataset.spec.transform.spec))
    assert len({key for key, _ in expected}) == 40
    with serve(dataset, requests=3) as serving:  # fewer than the loader sends at once
        through = ThroughServer(serving.url)
        assert Samples(open_source(shards), Prepare(transform=through), "raise").at_once > 3
        assert given(loader(through)) == expected
        begun = loader(through)
        some = given(islice(begun, 4))
        later = loader(through)
        later.load_state_dict(begun.state_dict())
        assert some + given(later) == expected


def test_rejects_through_it_are_skipped_and_counted(
    tmp_path: Path, images, make_dataset, run_chain, serve: Serve, write_module
) -> None:
    images(tmp_path / "raw", 12)
    transform = {"operations": [{"operation": f"{write_module(CODE)}:transform"}]}
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform=transform)
    shards = run_chain(dataset, last="webdataset_shards")["webdataset_shards"]
    with serve(dataset) as serving:
        loader = Loader(ShardStream(shards, transform=ThroughServer(serving.url), on_reject="skip"), batch_size=3)
        keys = [key for batch in loader for key in batch["__key__"]]
    assert len(keys) == len(set(keys)) == 8  # of four two each; four are filtered, four fail
    assert loader.skipped == {"transform failed": 4}


@pytest.mark.parametrize("name", ["./a.jpg", "Tag é/b c.JPEG", f"{'l' * 150}.jpg", "/abs/../a.jpg"])
def test_tars_of_others_come_through_it_whatever_their_names_and_as_inline(
    name: str, dataset, serve: Serve, tmp_path: Path
) -> None:
    image = (Path(dataset.spec.source.uri) / "image_00000.jpg").read_bytes()
    with tarfile.open(tmp_path / "theirs.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(image)
        tar.addfile(member, io.BytesIO(image))
    with serve(dataset) as serving:
        transforms = ThroughServer(serving.url), dataset.transform()
        [there], [here] = (
            list(ShardStream(tmp_path / "theirs.tar", transform=transform, decode=False)) for transform in transforms
        )
    key, _, suffix = name.rpartition(".")
    assert there["__key__"] == here["__key__"] == key
    assert there[suffix.lower()] == here[suffix.lower()]
