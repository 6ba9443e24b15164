"""Every verb of AIStore's ETL contract, as its targets and the SDK's own tests send it."""

import json
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shardmill.serving.server import DatasetServer
from tests.shardmill.serving.conftest import Serve, Serving, Target, tar_of, tars


def source_of(dataset) -> Path:
    return Path(dataset.spec.source.uri)


@pytest.fixture
def image(dataset) -> bytes:
    return (source_of(dataset) / "image_00000.jpg").read_bytes()


def test_health(dataset, serve: Serve) -> None:
    with serve(dataset, token="secret") as serving:
        answer = serving.client.get("/health")
        assert (answer.status_code, answer.content) == (200, b"Running")


def test_hpush_by_bucket_and_object(dataset, serve: Serve, image: bytes) -> None:
    with serve(dataset) as serving:
        answer = serving.client.put("/pets/image_00000.jpg", content=image)
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) == len(answer.content)
        whole = serving.client.put("/ais%2F@%23%2Fpets%2Fimage_00000.jpg", content=image)
        assert whole.content == answer.content


def test_hpush_in_chunks(dataset, serve: Serve, image: bytes) -> None:
    with serve(dataset) as serving:
        answer = serving.client.put("/pets/image_00000.jpg", content=image)
        chunked = serving.client.put("/pets/image_00000.jpg", content=iter([image[:100], image[100:]]))
        assert chunked.request.headers["transfer-encoding"] == "chunked"
        assert chunked.content == answer.content


def test_hpull_asks_the_target_as_the_sdk_does(dataset, serve: Serve, target: Target, image: bytes) -> None:
    target.objects["ais/@#/pets/image_00000.jpg"] = image
    with serve(dataset, target=target.url) as serving:
        pulled = serving.client.get("/ais%2F@%23%2Fpets%2Fimage_00000.jpg")
        assert pulled.content == serving.client.put("/pets/image_00000.jpg", content=image).content
        assert [path for _, path, _ in target.asked] == [
            "/v1/etl/_object/pets/secret/ais%2F@%23%2Fpets%2Fimage_00000.jpg"
        ]
        missing = serving.client.get("/pets/other.jpg")
        assert (missing.status_code, missing.json()["reason"]) == (404, "target failed")


def test_hpull_without_aistore_reads_the_datasets_own_objects(dataset, run_chain, serve: Serve, image: bytes) -> None:
    made = run_chain(dataset, last="transformed_shards")
    with serve(dataset) as serving:
        pulled = serving.client.get(f"{source_of(dataset)}/image_00000.jpg")
        assert pulled.content == serving.client.put("/pets/image_00000.jpg", content=image).content
        for raw, transformed in zip(made["webdataset_shards"].urls, tars(made["transformed_shards"]), strict=True):
            assert serving.client.get(raw.removeprefix("file://")).content == transformed


@pytest.mark.parametrize("verb", ["PUT", "GET"])
def test_direct_put_to_the_target_that_stores_it(
    dataset, serve: Serve, target: Target, image: bytes, verb: str
) -> None:
    target.objects["pets/image_00000.jpg"] = image
    with serve(dataset, target=target.url) as serving:
        plain = serving.client.put("/pets/image_00000.jpg", content=image).content
        node = target.url.partition("/v1")[0] + "/v1/objects/stored/image_00000.jpg?xid=7"
        answer = serving.client.request(
            verb, "/pets/image_00000.jpg", content=image if verb == "PUT" else None, headers={"ais-node-url": node}
        )
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["ais-direct-put-length"] == str(len(plain))
        assert target.put == {"/v1/etl/_object/pets/secret/v1/objects/stored/image_00000.jpg": plain}
        method, path, headers = target.asked[-1]
        assert (method, path.partition("?")[2], headers["content-length"]) == ("PUT", "xid=7", str(len(plain)))


def test_a_pipeline_goes_on_to_the_next_with_the_others_and_the_arguments(
    dataset, serve: Serve, target: Target, image: bytes
) -> None:
    first = target.url.partition("/v1")[0]
    target.answers = [(200, b"made of it", {}), (204, b"", {"ais-direct-put-length": "17"}), (418, b"no", {})]
    with serve(dataset, target=target.url) as serving:

        def put():
            headers = {"ais-node-url": f"{first}, http://127.0.0.1:9/x"}
            return serving.client.put(
                "/pets/image_00000.jpg", content=image, headers=headers, params={"etl_args": '{"epoch":1}'}
            )

        made, stored, refused = put(), put(), put()
    assert (made.status_code, made.content) == (200, b"made of it")
    assert (stored.status_code, stored.headers["ais-direct-put-length"]) == (204, "17")
    assert (refused.status_code, refused.content) == (418, b"no")
    _, path, headers = target.asked[0]
    assert headers["ais-node-url"] == "http://127.0.0.1:9/x"
    assert path == "/pets/image_00000.jpg?etl_args=%7B%22epoch%22%3A1%7D"


@pytest.mark.parametrize(
    ("answer", "status", "length"),
    [
        ((204, b"", {"ais-direct-put-length": "many"}), 204, None),
        ((204, b"", {"ais-direct-put-length": "9" * 5000}), 204, None),
        ((200, b"no gzip", {"content-encoding": "gzip"}), 502, None),
        ((999, b"", {}), 502, None),
    ],
    ids=["no length", "no possible length", "wrong encoding", "no status"],
)
def test_a_target_that_answers_nonsense_is_no_defect_of_the_server(
    dataset, serve: Serve, target: Target, image: bytes, answer: tuple, status: int, length: str | None
) -> None:
    target.answers = [answer]
    node = {"ais-node-url": target.url.partition("/v1")[0] + "/v1/objects/stored/x"}
    with serve(dataset, target=target.url) as serving:
        answered = serving.client.put("/pets/image_00000.jpg", content=image, headers=node)
    assert (answered.status_code, answered.headers.get("ais-direct-put-length")) == (status, length)


@pytest.mark.parametrize("node", ["http://[::1", "http://127.0.0.1:99999/x", "http://127.0.0.1:-1/", "http://a:b/"])
def test_a_next_node_that_is_no_url_is_a_bad_pipeline(
    dataset, serve: Serve, target: Target, image: bytes, node: str
) -> None:
    with serve(dataset, target=target.url) as serving:
        answered = serving.client.put("/pets/image_00000.jpg", content=image, headers={"ais-node-url": node})
    assert (answered.status_code, answered.json()["reason"]) == (400, "bad pipeline")


def test_a_direct_put_that_breaks_is_tried_again_and_computed_once(
    dataset, serve: Serve, target: Target, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardmill.serving.direct_put.RETRY_BACKOFF_BASE", 0.01)
    monkeypatch.setenv("AIS_DIRECT_PUT_RETRIES", "2")
    node = {"ais-node-url": target.url.partition("/v1")[0] + "/v1/objects/stored/x"}
    with serve(dataset, target=target.url) as serving:
        target.answers = [(0, b"", {}), (0, b"", {})]
        assert serving.client.put("/pets/image_00000.jpg", content=image, headers=node).status_code == 204
        target.answers = [(0, b"", {})] * 3
        failed = serving.client.put("/pets/image_00000.jpg", content=image, headers=node)
        assert (failed.status_code, failed.json()["reason"]) == (502, "direct put failed")


@pytest.mark.parametrize("length", ["many", "-1", "9" * 5000])
def test_a_next_one_that_says_no_length_has_stored_it_all_the_same(
    length: str, dataset, serve: Serve, image: bytes, target: Target
) -> None:
    target.answers = [(204, b"", {"Ais-Direct-Put-Length": length})]
    with serve(dataset, target=target.url) as serving:
        answer = serving.client.put("/pets/a.jpg", content=image, headers={"ais-node-url": target.url})
        assert (answer.status_code, answer.headers.get("ais-direct-put-length")) == (204, None)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"ais-node-url": "http://a,,http://b"}, 400), ({"ais-node-url": "http://127.0.0.1:9"}, 403)],
)
def test_nothing_is_sent_on_that_no_target_asks_for(dataset, serve: Serve, image: bytes, headers, status: int) -> None:
    with serve(dataset) as serving:
        assert serving.client.put("/pets/image_00000.jpg", content=image, headers=headers).status_code == status


def message(serving: Serving, control: dict[str, str], data: bytes, token: str = "") -> bytes | str:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with connect(f"ws://127.0.0.1:{serving.port}/ws", additional_headers=headers, max_size=None) as socket:
        socket.send(json.dumps(control).encode())
        socket.send(data)
        return socket.recv()


def test_messages_over_a_websocket(dataset, serve: Serve, image: bytes) -> None:
    with serve(dataset) as serving:
        plain = serving.client.put("/pets/image_00000.jpg", content=image).content
        assert message(serving, {"path": "pets/image_00000.jpg", "etl_args": ""}, image) == plain
        assert message(serving, {"path": "pets/shard.tar"}, tar_of()) == tar_of()
        broken = message(serving, {"path": "pets/image_00000.jpg"}, b"no image")
        assert isinstance(broken, str)
        assert broken.startswith("Transform error: ")


def test_a_websocket_reads_no_file_and_asks_for_the_token(dataset, serve: Serve, image: bytes) -> None:
    with serve(dataset) as serving, pytest.raises(ConnectionClosed):
        message(serving, {"path": "pets/image_00000.jpg", "fqn": f"{source_of(dataset)}/image_00000.jpg"}, image)
    with serve(dataset, token="secret") as serving:
        with pytest.raises(Exception, match="403"):
            message(serving, {"path": "pets/image_00000.jpg"}, image)
        assert isinstance(message(serving, {"path": "pets/image_00000.jpg"}, image, "secret"), bytes)


def test_what_a_message_becomes_is_sent_on_as_what_a_request_becomes(
    dataset, serve: Serve, image: bytes, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = {
        "path": "pets/image_00000.jpg",
        "pipeline": target.url.partition("/v1")[0],
    }
    with serve(dataset) as serving:
        assert "results are sent on only where" in str(message(serving, control, image))
    assert target.put == {}
    monkeypatch.setenv("AIS_DIRECT_PUT_RETRIES", "0")
    with serve(dataset, target=target.url, body_bytes=len(image) * 8) as serving:
        plain = serving.client.put("/pets/image_00000.jpg", content=image).content
        assert message(serving, control, image) == str(len(plain))
        assert target.put == {"/pets/image_00000.jpg": plain}
        target.answers = [(200, b"further", {}), (200, bytes(len(image) * 9), {}), (0, b"", {})]
        assert message(serving, control, image) == b"further"
        assert "too large" in str(message(serving, control, image))
        assert "direct put failed" in str(message(serving, control, image))


def test_a_message_forges_no_line_of_the_log(dataset, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with serve(dataset) as serving:
        assert "no component" in str(message(serving, {"path": "pets/a\nforged"}, b"x"))
    assert any("a\\nforged" in line for line in caplog.messages)
    assert not any("\n" in line for line in caplog.messages)


def test_an_etag_says_plan_and_input_and_spares_the_work(
    dataset, serve: Serve, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(dataset) as serving:
        tag = serving.client.put("/pets/image_00000.jpg", content=image).headers["etag"]
        others = [
            serving.client.put("/pets/image_00001.jpg", content=image),
            serving.client.put("/pets/image_00000.jpg", content=image + b"\0"),
            serving.client.put("/pets/image_00000.jpg", content=image, params={"etl_args": '{"epoch":1}'}),
        ]
        assert len({tag, *(other.headers["etag"] for other in others)}) == 4
        by_get = serving.client.get(f"{source_of(dataset)}/image_00000.jpg").headers["etag"]
        assert by_get == tag
        monkeypatch.setattr(DatasetServer, "_result", None)  # nothing is computed from here on
        for known in (tag, f'"x", W/{tag}', "*"):
            for verb, path in (("GET", f"{source_of(dataset)}/image_00000.jpg"), ("PUT", "/pets/image_00000.jpg")):
                answer = serving.client.request(
                    verb, path, content=image if verb == "PUT" else None, headers={"if-none-match": known}
                )
                assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
