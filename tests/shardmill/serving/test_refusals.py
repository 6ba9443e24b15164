"""What is not answered with a result: each has its status and its reason, and says nothing that is secret."""

import contextlib
import io
import json
import tarfile
from pathlib import Path

import httpx
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shardmill.dataset import Dataset
from shardmill.errors import ConfigurationError
from shardmill.images.reasons import CORRUPT_IMAGE
from shardmill.samples import EncodedSample
from shardmill.serving import pulled
from shardmill.serving.arguments import Arguments, parse_arguments
from shardmill.serving.limits import SAMPLE_BYTES
from shardmill.serving.names import object_path
from shardmill.serving.refusals import Refusal
from shardmill.serving.server import DatasetServer
from shardmill.shards.ustar import member_header
from tests.pictures import save, smooth
from tests.shardmill.serving.conftest import Serve, Target, samples_of, tar_of


def refused(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()["reason"]


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH"])
def test_another_method_is_refused_like_all_else(dataset, serve: Serve, method: str) -> None:
    with serve(dataset) as serving:
        answer = serving.client.request(method, "/pets/image.jpg", content=b"x")
        assert refused(answer) == (405, "method not allowed")
        assert answer.headers["allow"] == "GET, PUT"


def image_of(dataset, number: int = 0) -> bytes:
    return (Path(dataset.spec.source.uri) / f"image_{number:05d}.jpg").read_bytes()


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", "3", '{"epoch":"1"}', '{"epoch":-1}', '{"epoch":true}', '{"code":"x"}', "[" * 4000, " " * 5000 + "1"],
)
def test_etl_args_that_are_none(dataset, serve: Serve, text: str) -> None:
    with serve(dataset) as serving:
        answer = serving.client.put("/pets/image.jpg", content=b"", params={"etl_args": text})
        assert refused(answer) == (400, "bad etl_args")


@settings(max_examples=50)
@given(st.text())
def test_any_etl_args_are_read_or_refused(text: str) -> None:
    with contextlib.suppress(Refusal):
        assert isinstance(parse_arguments(text), Arguments)


def test_a_broken_image_is_told_with_the_rejects_reason(dataset, serve: Serve) -> None:
    with serve(dataset) as serving:
        answer = serving.client.put("/pets/image.jpg", content=b"no image at all")
        assert refused(answer) == (422, "not an image")
        assert answer.json()["key"] == "image"
        assert refused(serving.client.put("/pets/image.jpg", content=image_of(dataset)[:500]))[0] == 422


def test_an_image_that_is_damaged_below_its_crop_is_rejected_as_packing_rejects_it(
    tmp_path: Path, images, make_dataset, serve: Serve
) -> None:
    images(tmp_path / "raw", 1)
    crop = {"operations": [{"operation": "CenterCrop", "arguments": {"size": 16}}]}
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform=crop)
    whole = save(Image.fromarray(smooth(160, 64)), "JPEG")
    data = whole[:-30] + b"\xff\xd9" + whole[-30:]
    assert dataset.transform()(EncodedSample("image", {"jpg": data})), "a crop alone does not show it"
    with serve(dataset) as serving:
        assert serving.client.put("/pets/image.jpg", content=whole).status_code == 200
        assert refused(serving.client.put("/pets/image.jpg", content=data)) == (422, CORRUPT_IMAGE)
        shard = tar_of(EncodedSample("image", {"jpg": data}), EncodedSample("other", {"jpg": whole}))
        counted = serving.client.put("/pets/000000.tar", content=shard).headers
        assert (counted["Shardmill-Rejected"], counted["Shardmill-Samples"]) == ("1", "1")


def test_a_decompression_bomb_is_a_reject(tmp_path: Path, images, make_dataset, serve: Serve) -> None:
    images(tmp_path / "raw", 1)
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", max_pixels=1000)
    with serve(dataset) as serving:
        assert refused(serving.client.put("/pets/image.jpg", content=image_of(dataset)))[0] == 422


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a/.DS_Store", "left out"), ("README", "no component"), ("__MACOSX/a.jpg", "left out"), ("a.skip", "left out")],
)
def test_what_the_dataset_leaves_out_is_no_sample(
    tmp_path: Path, images, make_dataset, serve: Serve, name, reason
) -> None:
    images(tmp_path / "raw", 1)
    found = make_dataset(tmp_path / "raw", tmp_path / "root")
    source = found.spec.source.model_copy(update={"exclude": ["*.skip"]})
    dataset = Dataset(found.spec.model_copy(update={"source": source}))
    with serve(dataset) as serving:
        assert refused(serving.client.put(f"/pets/{name}", content=b"x")) == (422, reason)


RESULTS = {
    "none": ("def transform(sample):\n    return None", "filtered"),
    "several samples": (
        "def transform(sample):\n    return [sample.child(n, sample.components) for n in 'ab']",
        "several samples",
    ),
    "several components": (
        "def transform(one):\n    return one.replace(dict.fromkeys(['a.jpg', 'b.jpg'], one.components['jpg']))",
        "several components",
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_single_image_becomes_one_component_or_a_422(
    tmp_path: Path, images, make_dataset, serve: Serve, write_module, name: str
) -> None:
    images(tmp_path / "raw", 1)
    code, reason = RESULTS[name]
    transform = {"operations": [{"operation": f"{write_module(code)}:transform"}]}
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform=transform)
    with serve(dataset) as serving:
        assert refused(serving.client.put("/pets/image.jpg", content=image_of(dataset))) == (422, reason)


def test_of_several_components_the_one_of_the_same_name_is_the_answer(
    tmp_path: Path, images, make_dataset, serve: Serve, write_module
) -> None:
    images(tmp_path / "raw", 1)
    code = "def transform(sample):\n    return sample.replace({**sample.components, 'txt': 'a note'})"
    transform = {"operations": [{"operation": f"{write_module(code)}:transform"}]}
    with serve(make_dataset(tmp_path / "raw", tmp_path / "root", transform=transform)) as serving:
        data = (tmp_path / "raw/image_00000.jpg").read_bytes()
        assert serving.client.put("/pets/image.jpg", content=data).content == data


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "import os; os._exit(3)", "return 7"])
def test_a_callable_that_misbehaves_ends_one_request(
    tmp_path: Path, images, make_dataset, serve: Serve, write_module, code: str
) -> None:
    images(tmp_path / "raw", 1)
    transform = {
        "operations": [{"operation": f"{write_module(f'def transform(sample):{chr(10)}    {code}')}:transform"}]
    }
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", transform=transform)
    with serve(dataset) as serving:
        answer = serving.client.put("/pets/image.jpg", content=image_of(dataset))
        assert answer.status_code in (422, 500)
        assert serving.client.get("/health").status_code == 200


def test_a_shard_that_is_none_or_not_whole_is_refused_wherever_it_is_cut(dataset, serve: Serve) -> None:
    whole = tar_of(*(EncodedSample(f"image_{n}", {"jpg": image_of(dataset, n), "cls": b"1"}) for n in range(3)))
    with serve(dataset) as serving:
        for cut in (0, 1, 511, 512, 700, 2048, len(whole) // 2, len(whole) - 1025, len(whole) - 1024, len(whole) - 512):
            assert refused(serving.client.put("/pets/a.tar", content=whole[:cut])) == (400, "no shard"), cut
        for damaged in (whole + b"\0", whole[:300] + b"x" + whole[301:], b"\x1f\x8b" + whole, b"x" * 5000):
            assert refused(serving.client.put("/pets/a.tar", content=damaged)) == (400, "no shard")
        assert serving.client.put("/pets/a.tar", content=whole).status_code == 200


def test_a_member_that_claims_gigabytes_takes_none(dataset, serve: Serve) -> None:
    with serve(dataset) as serving:
        claimed = member_header("image.jpg", 8**11 - 1) + b"x" * 100
        assert refused(serving.client.put("/pets/a.tar", content=claimed)) == (413, "too large")
        claimed = member_header("image.jpg", SAMPLE_BYTES - 1024) + b"x" * 100
        assert refused(serving.client.put("/pets/a.tar", content=claimed)) == (400, "no shard")


def test_a_shard_has_a_bound_of_samples(dataset, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardmill.serving.plan.SHARD_SAMPLES", 3)
    samples = [EncodedSample(f"image_{number}", {"jpg": b"no image"}) for number in range(4)]
    with serve(dataset) as serving:
        assert serving.client.put("/pets/a.tar", content=tar_of(*samples[:3])).status_code == 200
        assert refused(serving.client.put("/pets/a.tar", content=tar_of(*samples))) == (413, "too large")


def test_a_shard_of_bad_samples_is_answered_without_them(dataset, serve: Serve) -> None:
    shard = tar_of(
        EncodedSample("bad", {"jpg": b"no image"}),
        EncodedSample("good", {"jpg": image_of(dataset)}),
        EncodedSample("worse", {"jpg": b""}),
    )
    with serve(dataset) as serving:
        answer = serving.client.put("/pets/a.tar", content=shard, params={"etl_args": '{"report":true}'})
        assert answer.headers["shardmill-rejected"] == "2"
        assert json.loads(answer.headers["shardmill-reasons"]) == {"not an image": 1, "empty file": 1}
        made = samples_of(answer.content)
        report = json.loads(made.pop("__report__/samples")["json"])
        assert list(made) == ["good"]
        assert report["made"] == [0, 1, 0]
        assert {number: each["reason"] for number, each in report["rejects"].items()} == {
            "0": "not an image",
            "2": "empty file",
        }
        read = wds.tariterators.tar_file_iterator(io.BytesIO(answer.content))  # which passes over the report
        assert [each["fname"] for each in read] == ["good.jpg"]
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:  # any reader can read it
            assert tar.getnames() == ["__report__/samples.json", "good.jpg"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "pets/",
        "../etc/passwd",
        "pets/../../etc/passwd",
        "pets/./a.jpg",
        "http://127.0.0.1:9/a.jpg",
        "file:///etc/passwd",
        "a\0.jpg",
    ],
)
def test_paths_that_name_no_object(path: str) -> None:
    with pytest.raises(Refusal, match="bad path") as refusal:
        object_path(path)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%252e%252e/etc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "/file:%2F%2F/etc/passwd",
        "/http:%2F%2F127.0.0.1:9/a.jpg",
        "{source}/../secret.jpg",
        "{source}/%2e%2e/secret.jpg",
        "{source}/link.jpg",
        "{source}/folder/secret.jpg",
        "{source}/pipe.jpg",
        "{source}/dangling.jpg",
        "{source}/loop.jpg",
        "{source}/{long}.jpg",
        "{source}2/a.jpg",
        "{root}/d/_shardmill/webdataset_shards/p/index.json",
        "{root}/d/embeddings/p/a.parquet",
        "{root}/other/a.tar",
        "{root}/d/link.tar",
        "/pets/image_00000.jpg",
    ],
)
def test_nothing_is_read_but_what_is_the_datasets(dataset, tmp_path: Path, serve: Serve, path: str) -> None:
    import os

    source, secret = Path(dataset.spec.source.uri), tmp_path / "secret.jpg"
    secret.write_bytes(image_of(dataset))
    (tmp_path / "raw2").mkdir()
    (tmp_path / "raw2/a.jpg").write_bytes(image_of(dataset))
    (source / "link.jpg").symlink_to(secret)
    (source / "folder").symlink_to(tmp_path)
    (source / "dangling.jpg").symlink_to(tmp_path / "nothing")
    (source / "loop.jpg").symlink_to(source / "loop.jpg")
    os.mkfifo(source / "pipe.jpg")
    for name in ("_shardmill/webdataset_shards/p/index.json", "embeddings/p/a.parquet"):
        (tmp_path / "root/d" / name).parent.mkdir(parents=True)
        (tmp_path / "root/d" / name).write_bytes(b"{}")
    (tmp_path / "root/d/link.tar").symlink_to(secret)
    (tmp_path / "root/other").mkdir()
    (tmp_path / "root/other/a.tar").write_bytes(tar_of())
    (source / "within.jpg").symlink_to(source / "image_00001.jpg")
    with serve(dataset) as serving:
        where = path.format(source=source, root=tmp_path / "root", long="x" * 300)
        request = serving.client.build_request("GET", serving.url)
        request.url = request.url.copy_with(raw_path=where.encode())
        status, _ = refused(serving.client.send(request))
        assert status in (400, 403, 404, 422)
        if "root" in path:
            assert status == 403
        assert serving.client.get(f"{source}/within.jpg").status_code == 200


@pytest.mark.parametrize("swapped", ["folder", "file"])
def test_a_link_that_takes_a_place_after_it_was_looked_at_is_not_followed(
    dataset, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    source, outside = Path(dataset.spec.source.uri), tmp_path / "outside"
    for folder in (source / "folder", outside):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(image_of(dataset))
    place, target = {"folder": (source / "folder", outside), "file": (source / "folder/a.jpg", outside / "a.jpg")}[
        swapped
    ]
    followed = pulled._followed

    def swap(folder: str, uri: str) -> Path:
        found = followed(folder, uri)
        place.rename(tmp_path / "before")
        place.symlink_to(target)
        return found

    with serve(dataset) as serving:
        assert serving.client.get(f"{source}/folder/a.jpg").status_code == 200
        monkeypatch.setattr(pulled, "_followed", swap)
        assert refused(serving.client.get(f"{source}/folder/a.jpg"))[0] == 403


def test_no_path_climbs_out_of_the_target(dataset, serve: Serve, target: Target) -> None:
    with serve(dataset, target=target.url) as serving:
        for path in ("/..%2f..%2fv1%2fcluster", "/pets/..%2f..%2fa.tar", "/%2e%2e/a.tar"):
            request = serving.client.build_request("GET", serving.url)
            request.url = request.url.copy_with(raw_path=path.encode())
            assert refused(serving.client.send(request)) == (400, "bad path")
        assert target.asked == []


def test_no_file_is_read_by_a_path_that_a_request_gives(dataset, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_DIRECT_FQN", "true")
    file = Path(dataset.spec.source.uri) / "image_00000.jpg"
    with serve(dataset) as serving:
        for verb in ("GET", "PUT"):
            answer = serving.client.request(verb, "/pets/a.jpg", params={"etl_fqn": str(file)})
            assert refused(answer) == (403, "not served")


def test_the_token_is_asked_for_and_stands_in_no_log(dataset, serve: Serve, served_log, monkeypatch) -> None:
    image = image_of(dataset)
    with serve(dataset, token="s3cret-token") as serving:
        for headers in ({}, {"authorization": "Bearer s3cret"}, {"authorization": "Basic s3cret-token"}):
            answer = serving.client.put("/pets/image.jpg", content=image, headers=headers)
            assert refused(answer) == (401, "no token")
            assert answer.headers["www-authenticate"] == "Bearer"
        headers = {"authorization": "Bearer s3cret-token"}
        args = {"etl_args": '{"epoch":1}', "other": "s3cret"}
        assert serving.client.put("/pets/image.jpg", content=image, headers=headers, params=args).status_code == 200
        assert serving.client.put("/pets/%0aforged%20line.jpg", content=b"x", headers=headers).status_code == 404
    lines = [line for line in served_log.messages if line.startswith("PUT")]
    assert len(lines) == 5
    assert "'/pets/image.jpg' 200" in lines[3]
    assert not any("s3cret" in line or "\n" in line for line in lines)


def test_pages_of_the_framework_are_not_there(dataset, serve: Serve) -> None:
    with serve(dataset) as serving:
        for page in ("/docs", "/openapi.json", "/redoc"):
            assert serving.client.get(page).status_code in (403, 422)


def test_a_transform_is_named_where_there_are_several(tmp_path: Path, images, make_dataset, serve: Serve) -> None:
    images(tmp_path / "raw", 1)
    several = {
        name: {"operations": [{"operation": "CenterCrop", "arguments": {"size": size}}]}
        for name, size in (("small", 8), ("large", 32))
    }
    fields = {"transform": None, "transforms": several, "embedder": None}
    dataset = make_dataset(tmp_path / "raw", tmp_path / "root", **fields)
    for wrong in (None, "medium"):
        with pytest.raises(ConfigurationError, match="small, large"):
            DatasetServer(dataset, wrong)
    sizes = {}
    for name in several:
        with serve(dataset, name) as serving:
            answer = serving.client.put("/pets/image.jpg", content=(tmp_path / "raw/image_00000.jpg").read_bytes())
            sizes[name] = answer.headers["etag"], len(answer.content)
    assert sizes["small"] != sizes["large"]
    without = make_dataset(tmp_path / "raw", tmp_path / "root", transform=None, embedder=None)
    with pytest.raises(ConfigurationError, match="declares no transform"):
        DatasetServer(without)
