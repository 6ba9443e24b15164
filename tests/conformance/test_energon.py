"""Megatron-Energon: its own preparation indexes our tars, and reads by that index.

Not among the extras: its storage client holds other packages back. It is tried where it is installed.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conformance.conftest import Samples, Urls

webdataset = pytest.importorskip("megatron.energon.flavors.webdataset.prepare")


@pytest.mark.parametrize("partition", ["plain", "strange", "alike", "texts", "mixed"])
def test_every_sample_is_indexed_and_read_byte_for_byte(
    partition: str, urls: Urls, sources: Mapping[str, Samples], tmp_path: Path
) -> None:
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.itar_reader import ShardInfosITarReader, SqliteITarEntryReader
    from megatron.energon.flavors.webdataset.metadata import WebdatasetMeta

    # It writes beside each tar and above all of them: into a folder of links, not among the data.
    names = []
    for url in urls(partition):
        (tmp_path / Path(url).name).symlink_to(url)
        names.append(Path(url).name)
    webdataset.WebdatasetPreparator.prepare_dataset(tmp_path, names, split_parts_ratio=[("train", 1.0)], workers=1)
    reader = SqliteITarEntryReader(EPath(tmp_path))
    found = {}
    for key, _, _ in reader.list_all_samples():
        sample = reader[key]
        found[sample["__key__"]] = {name: data for name, data in sample.items() if not name.startswith("__")}
    assert found == sources[partition]
    shards = WebdatasetMeta.from_config(EPath(tmp_path), split_part="train").shards
    by_number = ShardInfosITarReader(EPath(tmp_path), shards)
    assert {by_number[number]["__key__"] for number in range(len(by_number))} == found.keys()
    assert {each.suffix for url in urls(partition) for each in Path(url).parent.iterdir()} == {".tar"}
