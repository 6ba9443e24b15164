"""AIStore's own shard reader."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.cluster import serve
from tests.conformance.conftest import Samples, Urls
from tests.conformance.test_documentation import run

pytest.importorskip("aistore.pytorch")
pytestmark = pytest.mark.timeout(60)  # the client tries again for ten minutes


@pytest.fixture
def client(urls: Urls, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Of a cluster with a bucket that holds the tars of a partition."""
    from aistore.sdk import Client

    files = {f"pets/webdataset_shards/{Path(url).name}": url for url in urls(request.param)}
    with serve("shards", {**files, "other/readme.txt": __file__}) as url:
        yield Client(url)


def read(client: Any) -> dict[str, dict[str, bytes]]:
    """By the lines of the documentation."""
    return {key: dict(sample.items()) for key, sample in run("AIStore", [], client=client)}


@pytest.mark.parametrize(
    ("client", "partition"), [(name, name) for name in ("plain", "strange", "texts")], indirect=["client"]
)
def test_every_sample_is_read_byte_for_byte(client: Any, partition: str, sources: Mapping[str, Samples]) -> None:
    """It calls a sample by its basename, and a component by its last suffix."""
    expected = {
        key.rpartition("/")[2]: {name.rpartition(".")[2]: data for name, data in each.items()}
        for key, each in sources[partition].items()
    }
    assert read(client) == expected


@pytest.mark.parametrize("client", ["mixed"], indirect=True)
def test_what_a_sample_lacks_is_empty(client: Any, sources: Mapping[str, Samples]) -> None:
    nothing = dict.fromkeys(("jpg", "cls", "png", "json", "bin"), b"")
    assert read(client)["m1"] == {**nothing, "txt": sources["mixed"]["m1"]["txt"]}


@pytest.mark.parametrize("client", ["alike"], indirect=True)
def test_samples_with_one_basename_and_components_with_one_suffix_are_one(
    client: Any, sources: Mapping[str, Samples]
) -> None:
    assert len(sources["alike"]) == 3
    assert {key: sorted(sample) for key, sample in read(client).items()} == {"same": ["png", "txt"]}
