"""Every listed object is accounted for: in a sample, in a reject, or left out by a named rule."""

import os
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.engines import LocalEngine
from shardmill.errors import ConfigurationError, ConflictError
from shardmill.graph import PACKED, Planner, accounts_of, beside_partitions, states, unaccounted, write
from shardmill.shards.commit import parse_commit
from shardmill.shards.verify import verify

RAW = "raw_images"


@pytest.fixture
def folder(tmp_path: Path, images: Any) -> Path:
    """Six samples of two objects, one of which is a reject, and litter."""
    keys = images(tmp_path / "raw", 6)
    (tmp_path / f"raw/{keys[0]}.jpg").write_bytes(b"")
    (tmp_path / "raw/._x.jpg").write_bytes(b"")
    return tmp_path


def declared(source: dict[str, Any], root: Path, **fields: Any) -> Dataset:
    spec = {"name": "d", "partitions": ["p"], "shards": {"max_samples": 4}, "source": source, "root": str(root)}
    return Dataset(DatasetSpec.model_validate({**spec, **fields}))


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return declared({"uri": str(folder / "raw")}, folder / "root", max_reject_ratio=0.9)


def accounts(dataset: Dataset) -> Any:
    raw, packed = dataset.stored(RAW, "p"), dataset.stored(PACKED, "p")
    assert raw is not None
    assert packed is not None
    assert list(unaccounted(dataset, "p")) == list(verify(raw)) == list(verify(packed)) == []
    return accounts_of(raw.commit, packed.commit)


def test_samples_rejects_and_what_is_left_out_add_up(dataset: Dataset, run_chain: Any) -> None:
    run_chain(dataset, last=PACKED)
    found = accounts(dataset)
    assert found.add_up
    assert str(found) == "13 objects: 10 in samples, 2 in rejects, 1 left out (1 default: ._*)"


def test_what_is_left_out_changes_nothing_downstream_and_is_counted_anew(
    folder: Path, dataset: Dataset, run_chain: Any
) -> None:
    before = run_chain(dataset, last=PACKED)
    (folder / "raw/.DS_Store").write_bytes(b"x")
    (folder / "raw/._x.jpg").unlink()
    assert [state.state for state in states(dataset, "p")] == ["up to date", "up to date"]
    assert next(states(dataset, "p")).left_out == {"default: .DS_Store": 1}
    after = run_chain(dataset, last=PACKED)
    assert {name: made.commit.digest for name, made in after.items()} == {
        name: made.commit.digest for name, made in before.items()
    }
    assert [made.made for made in after.values()] == [0, 0]
    assert accounts(dataset).left_out == {"default: .DS_Store": 1}
    (folder / "raw/.DS_Store").unlink()
    run_chain(dataset, last=PACKED)
    assert accounts(dataset).left_out == {}


def test_the_table_of_what_is_left_out_names_every_object(folder: Path, dataset: Dataset, run_chain: Any) -> None:
    raw = run_chain(dataset, last=RAW)[RAW]
    file = Path(raw.layout.left_out.removeprefix("file://"))
    assert pq.read_table(file).to_pylist() == [
        {"uri": f"file://{folder}/raw/._x.jpg", "size": 0, "rule": "default: ._*"}
    ]
    file.write_bytes(b"damaged")
    assert any("left_out.parquet" in problem for problem in verify(raw))
    file.unlink()
    assert any("left_out.parquet" in problem for problem in verify(raw))
    run_chain(dataset, last=RAW)
    assert list(verify(raw)) == []


def test_objects_that_samples_and_rejects_lack_are_found(dataset: Dataset, run_chain: Any) -> None:
    run_chain(dataset, last=PACKED)
    packed = dataset.stored(PACKED, "p")
    assert packed is not None
    file = Path(packed.layout.commit.removeprefix("file://"))
    commit = parse_commit(file.read_bytes(), str(file))
    fewer = commit.model_copy(update={"shardlist": commit.shardlist[1:]})
    file.write_bytes(fewer.to_json())
    first, second = unaccounted(dataset, "p")
    assert "do not add up" in first
    assert "in no sample and no reject" in second


def test_a_partition_with_nothing_but_litter_says_what_there_is(tmp_path: Path, run_chain: Any) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/.DS_Store").write_bytes(b"x")
    dataset = declared({"uri": str(tmp_path / "raw")}, tmp_path / "root")
    with pytest.raises(ConfigurationError, match=r"1 left out \(1 default: \.DS_Store\)"):
        run_chain(dataset, last=RAW)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_in_a_folder_adds_up(seed: int, tmp_path: Path, images: Any, run_chain: Any) -> None:
    """Names, patterns, excludes, broken files, links and pipes by chance."""
    chance = random.Random(seed)
    raw = tmp_path / "raw"
    keys = images(raw / "images", 12)
    for key in keys:
        file = raw / f"images/{key}.jpg"
        match chance.randrange(8):
            case 0:
                file.write_bytes(file.read_bytes()[:200])
            case 1:
                file.rename(raw / f"images/{key}.JPEG")
            case 2:
                file.rename(raw / f"images/._{key}.jpg")
            case 3:
                (raw / f"images/{key}.jpeg").write_bytes(file.read_bytes())
            case 4:
                file.unlink()
                file.symlink_to("nowhere" if chance.random() < 0.5 else file.name)
            case 5:
                os.mkfifo(raw / f"images/{key}.png")
            case 6:
                (raw / f"{key}.txt").write_text("a caption")
    patterns = {"image": ["images/{key}.jpg", "images/{key}.jpeg"], "cls": "images/{key}.cls"}
    source = {
        "uri": str(raw),
        "components": chance.choice([None, patterns]),
        "exclude": chance.choice([[], ["*.txt"], ["*_0000?.cls"]]),
    }
    dataset = declared(source, tmp_path / "root", max_reject_ratio=1.0)
    run_chain(dataset, last=PACKED)
    found = accounts(dataset)
    assert found.add_up
    assert found.listed == sum(len(files) for _, _, files in os.walk(raw))


# Beside the partitions


DECLARED = [
    (["a", "b"], "{partition}"),
    ({"by": "prefix"}, "{partition}/images"),
    ({"by": "time", "start": "2026-01-01"}, "%Y/%m/%d"),
]


@pytest.mark.parametrize(("partitions", "template"), DECLARED)
def test_what_lies_beside_the_partitions_is_named(tmp_path: Path, partitions: Any, template: str) -> None:
    inside = {"{partition}": "a", "{partition}/images": "a/images", "%Y/%m/%d": "2026/01/02"}[template]
    for name in (f"{inside}/1.jpg", f"{inside}/deep/2.jpg", "loose.jpg", ".DS_Store", "@eaDir/3.jpg", "c/4.jpg"):
        file = tmp_path / "raw" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    root = tmp_path / ("root" if template == "{partition}" else "raw/root")
    dataset = declared({"uri": f"{tmp_path}/raw/{template}"}, root, partitions=partitions)
    beside = beside_partitions(dataset)
    assert beside is not None
    assert (beside.objects, beside.names) == (2, ("c/4.jpg", "loose.jpg"))
    assert str(beside) == f"2 objects below file://{tmp_path}/raw are in no partition: c/4.jpg, loose.jpg"


def test_nothing_lies_beside_partitions_that_hold_everything(tmp_path: Path, images: Any) -> None:
    images(tmp_path / "raw", 2)
    source = {"uri": str(tmp_path / "raw")}
    assert beside_partitions(declared(source, tmp_path / "root")) is None
    batches = declared(source, tmp_path / "root", partitions={"by": "batch"})
    assert beside_partitions(batches) is None


def test_what_no_batch_will_hold_is_counted_by_rule(tmp_path: Path, images: Any) -> None:
    images(tmp_path / "raw", 2)
    for name in (b".DS_Store", b"a.txt", b"b.txt", b"no.pattern", b"\xff.jpg"):
        (tmp_path / "raw" / os.fsdecode(name)).write_bytes(b"x")
    os.mkfifo(tmp_path / "raw" / "pipe.jpg")
    source = {
        "uri": str(tmp_path / "raw"),
        "exclude": ["*.txt"],
        "components": {"jpg": ["{key}.jpg", "{key}.cls"]},
    }
    beside = beside_partitions(declared(source, tmp_path / "root", partitions={"by": "batch"}))
    assert beside is not None
    assert beside.by_rule == {
        "exclude: *.txt": 2,
        "default: .DS_Store": 1,
        "name is not UTF-8": 1,
        "no pattern": 1,
        "not a file": 1,
    }
    assert str(beside).startswith(
        f"6 objects below file://{tmp_path}/raw are left out of every batch: 2 exclude: *.txt, "
    )


def test_what_is_made_is_not_beside_the_partitions(tmp_path: Path, images: Any, run_chain: Any) -> None:
    images(tmp_path / "raw-p", 2)
    dataset = declared({"uri": f"{tmp_path}/raw-{{partition}}"}, tmp_path / "made")
    run_chain(dataset, last=PACKED)
    assert beside_partitions(dataset) is None


# Images of several suffixes


@pytest.mark.parametrize("component", [None, "image"])
@pytest.mark.parametrize(
    "patterns", [["images/{key}.jpg", "images/{key}.jpeg", "images/{key}.png"], ["images/{key}.*"]]
)
def test_images_of_several_suffixes_with_masks_from_another_folder_go_all_the_way(
    tmp_path: Path, run_chain: Any, embedder_of_tests: dict[str, Any], patterns: Any, component: str | None
) -> None:
    for name in ("images", "masks"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    for number, suffix in enumerate(("jpg", "JPEG", "png", "PNG", "jpeg", "jpg")):
        Image.new("RGB", (64, 48), (40 * number, 9, 9)).save(tmp_path / f"raw/images/{number}.{suffix}")
        Image.new("L", (64, 48), number).save(tmp_path / f"raw/masks/{number}.png")
    dataset = declared(
        {"uri": str(tmp_path / "raw"), "components": {"image": patterns, "mask.png": "masks/{key}.png"}},
        tmp_path / "root",
        transform={"masks": ["mask.png"], "operations": [{"operation": "CenterCrop", "arguments": {"size": 32}}]},
        embedder={**embedder_of_tests, "component": component},
    )
    made = run_chain(dataset, last="embeddings")
    assert made["embeddings"].commit.total_samples == 6
    components = [sorted(sample.components) for sample in made[PACKED].samples()]
    assert sorted(components) == [["image.jpg", "mask.png"]] * 4 + [["image.png", "mask.png"]] * 2
    assert accounts(dataset).in_samples == 12
    assert made[PACKED].commit.components == {"image.jpg mask.png": 4, "image.png mask.png": 2}


@pytest.mark.parametrize(
    ("named", "warned"),
    [("mask.png", False), ("mask", False), ("masc.png", True)],
)
def test_a_mask_that_no_sample_has_is_warned_of(tmp_path: Path, run_chain: Any, named: str, warned: bool) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (40 * number, 9, 9)).save(tmp_path / f"raw/{number}.jpg")
        Image.new("L", (64, 48), number).save(tmp_path / f"raw/{number}.mask.png")
    components = {"jpg": "{key}.jpg", ("mask" if named == "mask" else "mask.png"): "{key}.mask.png"}
    dataset = declared(
        {"uri": str(tmp_path / "raw"), "components": components},
        tmp_path / "root",
        transform={"masks": [named], "operations": [{"operation": "CenterCrop", "arguments": {"size": 32}}]},
    )
    made = run_chain(dataset, last="transformed_shards")
    warnings = made["transformed_shards"].commit.warnings
    assert len(warnings) == warned
    if warned:
        assert (
            "d/transformed_shards/p: no sample has masc.png, which `masks` names (there are jpg, mask.png)"
            in warnings[0]
        )


def test_of_two_runs_the_table_of_what_is_left_out_is_that_of_the_later(folder: Path, dataset: Dataset) -> None:
    """Each of what it found, whichever writes its table first."""
    planner = Planner(dataset)
    asset = planner.graph[RAW]
    earlier = planner.plan(asset, "p", {})
    (folder / "raw/.DS_Store").write_bytes(b"x")
    later = planner.plan(asset, "p", {})
    with LocalEngine(1) as engine:
        made = write(dataset, asset, "p", earlier, engine)
        assert made.commit.left_out == {"default: ._*": 1}
        with pytest.raises(ConflictError):
            write(dataset, asset, "p", later, engine)
        write(dataset, asset, "p", planner.plan(asset, "p", {}), engine)
        with pytest.raises(ConflictError):
            write(dataset, asset, "p", earlier, engine)
    raw = dataset.stored(RAW, "p")
    assert raw is not None
    assert raw.commit.left_out == {"default: .DS_Store": 1, "default: ._*": 1}
    assert list(verify(raw)) == []
