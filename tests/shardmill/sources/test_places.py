"""What is left out, and what lies beside partitions, on every store."""

from typing import Any

import pytest

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.graph import beside_partitions
from tests.servers.places import KINDS, Kind, NewPlace


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_in_a_partition_left_out_or_beside_on_every_store(kind: Kind, place: NewPlace) -> None:
    at = place(kind)
    names = ("a/1.JPG", "a/1.jpeg", "a/._1.JPG", "a/x.txt", "b/.DS_Store", "@eaDir/1.jpg", "__MACOSX/._a", "loose.jpg")
    for name in (*names, ".DS_Store"):
        at.put(f"raw/{name}", b"x")
    declared: dict[str, Any] = {
        "name": "d",
        "root": f"{at.uri}/made",
        "source": {"uri": f"{at.uri}/raw/{{partition}}", "components": {"image": "{key}.*"}, "exclude": ["*.txt"]},
        "partitions": {"by": "prefix"},
    }
    dataset = Dataset(DatasetSpec.model_validate(declared), at.storage)
    assert dataset.partitions() == ["a"]
    manifest = dataset.manifest("a")
    assert [(item.key, item.component) for item in manifest] == [("1", "image.jpg"), ("1", "image.jpg")]
    assert manifest.left_out.by_rule == {"default: ._*": 1, "exclude: *.txt": 1}
    assert manifest.left_out.listed == 4
    beside = beside_partitions(dataset)
    assert beside is not None
    assert (beside.objects, beside.names) == (1, ("loose.jpg",))
