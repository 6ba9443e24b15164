"""Without AIStore the server reads the dataset's own objects from buckets, too."""

from pathlib import Path

import pytest

from shardmill.dataset import Dataset
from tests.servers.places import BUCKETS, Kind, NewPlace
from tests.shardmill.serving.conftest import SEEDED, Serve


@pytest.mark.parametrize("kind", BUCKETS)
def test_objects_of_a_bucket_are_pulled_by_bucket_and_name(
    tmp_path: Path, images, make_dataset, run_chain, place: NewPlace, serve: Serve, kind: Kind
) -> None:
    images(tmp_path / "raw", 3)
    bucket = place(kind)
    for file in (tmp_path / "raw").iterdir():
        bucket.put(f"raw/{file.name}", file.read_bytes())
    bucket.put("beside.jpg", b"not of the source")
    spec = make_dataset(Path("raw"), Path("root"), transform=SEEDED).spec
    source = spec.source.model_copy(update={"uri": f"{bucket.uri}/raw"})
    dataset = Dataset(spec.model_copy(update={"source": source, "root": f"{bucket.uri}/root"}), bucket.storage)
    made = run_chain(dataset, last="transformed_shards")
    below = bucket.uri.partition("://")[2]
    with serve(dataset) as serving:
        [url] = made["webdataset_shards"].urls
        [transformed] = made["transformed_shards"].urls
        pulled = serving.client.get(f"/{url.partition('://')[2]}")
        assert pulled.content == bucket.storage.read(transformed)
        image = serving.client.get(f"/{below}/raw/image_00001.jpg")
        pushed = serving.client.put("/any/image_00001.jpg", content=(tmp_path / "raw/image_00001.jpg").read_bytes())
        assert image.content == pushed.content
        assert image.headers["etag"] == pushed.headers["etag"]
        for path, status in ((f"/{below}/raw/other.jpg", 404), (f"/{below}/beside.jpg", 403), (f"/{below}/a.tar", 403)):
            assert serving.client.get(path).status_code == status
