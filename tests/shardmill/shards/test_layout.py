import pytest

from shardmill.errors import ConfigurationError
from shardmill.shards.layout import (
    Layout,
    data_name,
    index_beside,
    index_name,
    is_data_name,
    is_shard_file,
    picture_name,
)

DIGEST, CONTENT = "0123456789abcdef" * 4, "fedcba9876543210" * 4


def test_data_stand_apart_from_everything_else() -> None:
    layout = Layout.at("s3://bucket/root/pets/embeddings/2026-01")
    assert layout.data("x.parquet") == "s3://bucket/root/pets/embeddings/2026-01/x.parquet"
    side = "s3://bucket/root/pets/_shardmill/embeddings/2026-01"
    assert (layout.commit, layout.rejects) == (f"{side}/index.json", f"{side}/rejects.parquet")
    assert layout.staged("x") == f"{side}/staged/x"
    assert layout.superseded("x") == f"{side}/superseded/x"
    assert layout.beside("x") == f"{side}/x"


def test_a_url_leads_from_the_commit_to_the_data() -> None:
    from posixpath import normpath

    layout = Layout.at("file:///r/d/a/p")
    assert normpath(f"{layout.side}/{layout.url('x.tar')}").endswith("/r/d/a/p/x.tar")


@pytest.mark.parametrize("folder", ["s3://bucket", "s3://bucket/asset", "file:///", "file:///asset/partition"])
def test_a_folder_that_can_be_no_partition_s_is_refused(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="no folder of a partition"):
        Layout.at(folder)


def test_the_name_of_data_says_what_they_are_of_and_what_they_are() -> None:
    assert data_name("00ff00", DIGEST, CONTENT, "tar") == "00ff00-0123456789ab-fedcba98.tar"
    assert picture_name("00ff00", DIGEST, CONTENT) == "00ff00-0123456789ab-fedcba98.png"
    assert index_name("00ff00", DIGEST) == "00ff00-0123456789ab.index.parquet"


def test_shard_files_are_told_from_all_others() -> None:
    data = [data_name("00ff00", DIGEST, CONTENT, suffix) for suffix in ("tar", "parquet")]
    beside = [index_name("00ff00", DIGEST), picture_name("00ff00", DIGEST, CONTENT)]
    assert all(map(is_data_name, data))
    assert not any(map(is_data_name, beside))
    for name in (*data, *beside):
        assert is_shard_file(name)
        assert index_beside(name) == index_name("00ff00", DIGEST)
    for name in (
        "index.json",
        "rejects.parquet",
        "00ff00-0123456789ab.tar",
        "00FF00-0123456789ab-fedcba98.tar",
        "00ff00-0123456789ab-fedcba98",
        f"staged/{data[0]}",
    ):
        assert not is_shard_file(name)
