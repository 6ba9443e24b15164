"""What is read: committed shards by number, pinned, by few reads, every byte compared."""

import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from shardmill import SampleTable, ShardStream
from shardmill.errors import ConfigurationError, CorruptionError, NothingCommittedError
from shardmill.loading.prepare import Prepare
from shardmill.loading.sources import open_source
from shardmill.shards.reader import ShardSet
from shardmill.torchvision_compat import import_torchvision
from tests.counting import CountingStorage

tv_tensors = import_torchvision().tv_tensors


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, images, make_dataset, run_chain) -> dict[str, ShardSet]:
    """Packed and transformed samples, in several shards."""
    base = tmp_path_factory.mktemp("read")
    images(base / "raw", 60)
    return run_chain(make_dataset(base / "raw", base / "root"), last="transformed_shards")


def test_every_sample_is_read_once_and_in_order(made) -> None:
    packed = made["webdataset_shards"]
    source = open_source(packed.folder)
    read = [item for shard in source.shards for item in shard.read([range(shard.samples)])]
    assert [sample for _, sample in read] == list(packed.samples())
    assert [number for number, _ in read] == [n for shard in source.shards for n in range(shard.samples)]


def test_several_partitions_are_read_one_after_the_other(made) -> None:
    source = open_source([made["webdataset_shards"], made["transformed_shards"].folder.removeprefix("file://")])
    assert [shard.url for shard in source.shards] == made["webdataset_shards"].urls + made["transformed_shards"].urls


def test_some_samples_are_read_by_one_request_and_no_others(made) -> None:
    storage = CountingStorage()
    source = open_source(made["webdataset_shards"].folder, storage)
    shard = max(source.shards, key=lambda shard: shard.samples)
    storage.reads.clear()
    read = list(shard.read([range(1, 3), range(4, 5)]))
    assert [number for number, _ in read] == [1, 2, 4]
    everything = list(shard.read([range(shard.samples)]))
    assert [sample for _, sample in read] == [everything[number][1] for number in (1, 2, 4)]
    assert storage.reads == [("range", shard.url)] * 2  # the index was read when it was opened


def test_only_the_components_that_are_wanted_are_handed_over(made) -> None:
    source = open_source(made["webdataset_shards"].folder, components=["cls"])
    read = [sample for shard in source.shards for _, sample in shard.read([range(shard.samples)])]
    assert {tuple(sample.components) for sample in read} == {("cls",)}


def test_an_image_is_read_by_its_name_without_the_suffix(tmp_path: Path) -> None:
    for name, suffix in (("a", "png"), ("b", "jpeg")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for component in (f"image.{suffix}", "cls"):
                tar.addfile(tarfile.TarInfo(f"{name}.{component}"))
    stream = ShardStream(f"{tmp_path}/*.tar", components=["image"], decode=False)
    assert [sample.keys() for sample in stream] == [{"__key__", "__url__", "image"}] * 2


@pytest.mark.parametrize("make", [ShardStream, SampleTable])
def test_what_no_sample_has_and_what_is_no_list_is_refused_at_once(made, make: Any) -> None:
    folder = made["webdataset_shards"].folder
    for arguments, words in (
        (
            {"components": ["jpg", "clss"]},
            r"has the component 'clss'; did you mean 'cls'\? \(there are cls, jpg",
        ),
        ({"masks": ["mask.png"]}, "no sample has the component 'mask.png'"),
        ({"components": "jpg"}, r"components is 'jpg': it is a list of names, \['jpg'\]"),
        ({"columns": "cls"}, "columns is 'cls'"),
        ({"transform": {"operations": []}}, "transform is a dict: it is what `dataset.transform"),
        ({"transform": print}, "A function of your own is an operation"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            make(folder, **arguments)
    with pytest.raises(ConfigurationError, match=r"int is nothing that can be read: give .*`dataset.folder"):
        make(5)
    with pytest.raises(NothingCommittedError, match=r"Tars of others are read by a pattern, such as <folder>/\*.tar"):
        make(folder.rpartition("/")[0])


def test_a_source_pickles(made) -> None:
    source = open_source(made["webdataset_shards"].folder)
    again = pickle.loads(pickle.dumps(source))
    assert again.identity == source.identity
    assert list(again.shards[0].read([range(1)])) == list(source.shards[0].read([range(1)]))


FORKS = """
import gc, os, pickle, sys
from shardmill.loading.sources import open_source

source = open_source(sys.argv[1])
folder = source.shards[0].indexes.folder.path
assert len(list(folder.iterdir())) == len(source.shards)
again = pickle.loads(pickle.dumps(source))
if (child := os.fork()) == 0:
    del source, again
    gc.collect()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
del again
gc.collect()
assert folder.exists()
del source
gc.collect()
assert not folder.exists()
"""


def test_copies_go_with_the_source_and_not_with_a_fork_or_a_pickle_of_it(made) -> None:
    subprocess.run([sys.executable, "-c", FORKS, made["webdataset_shards"].folder], check=True)


def test_a_damaged_sample_is_given_as_its_error_and_the_others_are_sound(
    tmp_path: Path, images, make_dataset, run_chain
) -> None:
    images(tmp_path / "raw", 12)
    made = run_chain(make_dataset(tmp_path / "raw", tmp_path / "root"), last="webdataset_shards")["webdataset_shards"]
    source = open_source(made.folder)
    [shard] = source.shards
    sound = [sample for _, sample in shard.read([range(12)])]
    file = Path(shard.url.removeprefix("file://"))
    at = file.read_bytes().index(sound[5].components["jpg"]) + 100
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"\0damage\0")
    read = [sample for _, sample in shard.read([range(12)])]
    assert isinstance(read[5], CorruptionError)
    assert sound[5].key in str(read[5])
    assert [sample for sample in read if not isinstance(sample, CorruptionError)] == sound[:5] + sound[6:]


def test_nothing_is_no_source() -> None:
    with pytest.raises(ConfigurationError, match="no partition and no tar"):
        open_source([])


def test_a_table_holds_no_samples(made, images, make_dataset, run_chain) -> None:
    with pytest.raises(ConfigurationError, match="holds a table"):
        open_source(made["raw_images"].folder)


def test_a_sample_becomes_a_dict_of_tensors_and_plain_values(made) -> None:
    source = open_source(made["webdataset_shards"].folder)
    [(_, sample)] = source.shards[0].read([range(1)])
    [made_of] = Prepare()(sample, {"caption": "x"}, 0, "here")
    assert made_of.keys() == {"__key__", "__url__", "jpg", "cls", "caption"}
    assert isinstance(made_of["jpg"], tv_tensors.Image)
    assert (made_of["jpg"].dtype, made_of["jpg"].shape) == (torch.uint8, (3, 64, 64))
    assert made_of["cls"] == int(sample.components["cls"])
    assert (made_of["__key__"], made_of["__url__"], made_of["caption"]) == (sample.key, "here", "x")
    [as_bytes] = Prepare(decode=False)(sample, {}, 0)
    assert as_bytes["jpg"] == sample.components["jpg"]
