"""What is copied is what a build from nothing would make: never of another computation, never damaged bytes."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from shardmill import graph
from shardmill.engines import LocalEngine
from shardmill.errors import Rejected
from shardmill.samples import EncodedSample
from shardmill.shards.reader import ShardSet
from shardmill.shards.stored import StoredShard
from shardmill.stages import RowStage, SampleStage
from shardmill.stages.embed import EmbedStage
from shardmill.stages.pack import PackStage
from shardmill.stages.transform import TransformStage
from shardmill.storage import Storage
from shardmill.transforms import DecodedSample
from tests import small_embedder
from tests.changes import Changing, Cost, Instruments, counting, photograph
from tests.servers.places import NewPlace
from tests.small_embedder import SMALL

__all__ = ["counting"]

COUNT = 12
CROP = {"operation": "CenterCrop", "arguments": {"size": 16}}


def grey(sample: DecodedSample) -> DecodedSample:
    """A transform of the user's own."""
    image = sample.components["jpg"]
    return sample.replace({**sample.components, "jpg": image.float().mean(0, keepdim=True).expand(3, -1, -1).byte()})


@pytest.fixture
def changing(place: NewPlace, counting: Instruments, embedder_of_tests: dict[str, str]) -> Changing:
    """One shard of each asset."""
    made = Changing(place("file"), counting, {"transform": {"operations": [CROP]}, "embedder": SMALL})
    for number in range(COUNT):
        made.put(f"image_{number:03}.jpg", photograph(number))
    assert made.run()[0] == Cost(COUNT, COUNT, COUNT)
    return made


def add_one(changing: Changing) -> Cost:
    changing.put("new.jpg", photograph(1000))
    cost, _ = changing.run()
    return cost


# Another computation.


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (PackStage, Cost(1, 1, COUNT + 1)),
        (TransformStage, Cost(1, COUNT + 1, 1)),
        (EmbedStage, Cost(COUNT + 1, 1, 1)),
    ],
)
def test_a_raised_version_copies_nothing(
    changing: Changing, stage: type, expected: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after it finds the same bytes, and copies what was made of them."""
    monkeypatch.setattr(stage, "version", stage.version + 1)
    assert add_one(changing) == expected
    assert changing.files() == changing.files_from_nothing()


def test_other_weights_copy_nothing(changing: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_embedder.SmallEmbedder, "weights_digest", "others")
    assert add_one(changing) == Cost(COUNT + 1, 1, 1)


def test_another_preprocessing_copies_nothing(changing: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_embedder, "preprocessing", lambda _: "resize to 9")
    assert add_one(changing) == Cost(COUNT + 1, 1, 1)


@pytest.mark.parametrize("changed", [{"precision": "bfloat16"}, {"dtype": "float16"}, {"normalize": True}])
def test_another_arithmetic_copies_nothing(changing: Changing, changed: Mapping[str, Any]) -> None:
    changing.fields["embedder"] = {**SMALL, **changed}
    assert add_one(changing) == Cost(COUNT + 1, 1, 1)
    assert changing.files() == changing.files_from_nothing()


@pytest.mark.parametrize(
    "changed", [{"jpeg_quality": 50}, {"operations": [{**CROP, "arguments": {"size": 12}}]}, {"seed": 1}]
)
def test_another_transform_copies_nothing(changing: Changing, changed: Mapping[str, Any]) -> None:
    changing.fields["transform"] = {"operations": [CROP], **changed}
    cost = add_one(changing)
    assert cost.transformed == COUNT + 1
    assert changing.files() == changing.files_from_nothing()


def test_another_code_version_copies_nothing(changing: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    changing.fields["transform"] = {"operations": [{"operation": f"{__name__}:grey"}]}
    assert changing.run()[0].transformed == COUNT
    assert add_one(changing).transformed == 1
    monkeypatch.setattr(grey, "code_version", "2", raising=False)
    changing.delete("new.jpg")
    assert changing.run()[0].transformed == COUNT


def test_lower_limits_are_tried_anew(changing: Changing) -> None:
    changing.fields |= {"max_pixels": 100, "max_reject_ratio": 1.0}
    cost, made = changing.run()
    assert cost.fetched == COUNT
    assert made["webdataset_shards", "p"].commit.total_rejects == COUNT


# Damage.

Damage = Callable[[Path], None]


def flip(file: Path) -> None:
    """A bit of the first image's data, or of a table's vectors."""
    data = bytearray(file.read_bytes())
    place = 512 + 300 if file.suffix == ".tar" else 400
    data[place] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:600])


def files_of(changing: Changing, asset: str, side: bool = False) -> list[Path]:
    home = Path(changing.place.uri.removeprefix("file://"), "root/d", *(["_shardmill"] if side else []))
    found = (home / asset / "p").glob("*.index.parquet" if side else "0*")
    return [file for file in found if file.is_file()]


@pytest.mark.parametrize(
    ("asset", "harm", "expected"),
    [
        ("webdataset_shards", flip, Cost(1, 1, 2)),
        ("webdataset_shards", cut, Cost(1, 1, COUNT + 1)),
        ("webdataset_shards", Path.unlink, Cost(1, 1, COUNT + 1)),
        ("transformed_shards", flip, Cost(1, 2, 1)),
        ("transformed_shards", cut, Cost(1, COUNT + 1, 1)),
        ("transformed_shards", Path.unlink, Cost(1, COUNT + 1, 1)),
        ("embeddings", flip, Cost(COUNT + 1, 1, 1)),
        ("embeddings", cut, Cost(COUNT + 1, 1, 1)),
        ("embeddings", Path.unlink, Cost(COUNT + 1, 1, 1)),
    ],
)
def test_damage_is_found_before_it_is_copied(changing: Changing, asset: str, harm: Damage, expected: Cost) -> None:
    """A damaged component is made anew alone, and of a table all rows are."""
    (file,) = files_of(changing, asset)
    harm(file)
    assert add_one(changing) == expected
    assert changing.files() == changing.files_from_nothing()


@pytest.mark.parametrize(
    ("asset", "expected"),
    [
        ("webdataset_shards", Cost(1, 1, COUNT + 1)),
        ("transformed_shards", Cost(1, COUNT + 1, 1)),
        ("embeddings", Cost(COUNT + 1, 1, 1)),
    ],
)
@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_an_index_that_is_damaged_tells_nothing(changing: Changing, asset: str, harm: Damage, expected: Cost) -> None:
    (index,) = files_of(changing, asset, side=True)
    harm(index)
    assert add_one(changing) == expected
    assert changing.files() == changing.files_from_nothing()


# Stages of the user's own.


class Halves(SampleStage):
    """Two of each, none of those that say so, and an error for those that ask for it."""

    name = "halves"
    calls: ClassVar[list[str]] = []

    def process(self, sample: EncodedSample) -> list[EncodedSample]:
        self.calls.append(sample.key)
        said = sample.components["txt"].decode()
        if said == "refuse":
            raise Rejected("refused", f"{sample.key} asked for it")
        if said == "leave out":
            return []
        return [EncodedSample(f"{sample.key}~{half}", {"txt": f"{said} {half}".encode()}) for half in "ab"]


class Length(RowStage):
    """How long each text is."""

    name = "length"
    calls: ClassVar[list[str]] = []

    def schema(self) -> pa.Schema:
        return pa.schema([("length", pa.int32()), ("half", pa.float32())])

    def row(self, sample: EncodedSample) -> dict[str, Any]:
        self.calls.append(sample.key)
        if sample.components["txt"].startswith(b"3"):
            raise Rejected("three", "is too many")
        return {"length": len(sample.components["txt"]), "half": 0.1}


@pytest.fixture
def own(place: NewPlace, counting: Instruments) -> Changing:
    stages = [
        {"name": "halves", "use": f"{__name__}:Halves"},
        {"name": "lengths", "use": f"{__name__}:Length", "of": "halves"},
    ]
    made = Changing(place("file"), counting, {"stages": stages, "max_reject_ratio": 1.0})
    for number in range(6):
        made.put(f"text_{number}.txt", f"{number}".encode())
    made.put("text_x.txt", b"refuse")
    made.put("text_y.txt", b"leave out")
    return made


def run_own(changing: Changing) -> tuple[list[str], list[str], dict[tuple[str, str], ShardSet]]:
    Halves.calls, Length.calls = [], []
    _, made = changing.run()
    return sorted(Halves.calls), sorted(Length.calls), made


def test_stages_of_the_users_own_see_what_is_new_and_nothing_else(own: Changing) -> None:
    """What was refused or left out is not asked again either."""
    halves, lengths, _ = run_own(own)
    assert (len(halves), len(lengths)) == (8, 12)
    own.put("text_new.txt", b"new")
    halves, lengths, made = run_own(own)
    assert (halves, lengths) == (["text_new"], ["text_new~a", "text_new~b"])
    assert (made["halves", "p"].computed, made["halves", "p"].copied) == (1, 8)
    assert {reject.detail for reject in made["halves", "p"].rejects()} == {"text_x asked for it"}
    assert made["halves", "p"].commit.total_filtered == 1
    assert made["lengths", "p"].commit.total_rejects == 2
    assert own.files() == own.files_from_nothing()


def test_they_are_asked_anew_when_their_version_is_raised(own: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    run_own(own)
    monkeypatch.setattr(Halves, "version", 2)
    halves, lengths, _ = run_own(own)
    assert (len(halves), lengths) == (8, [])


def test_a_damaged_table_of_theirs_is_made_anew(own: Changing) -> None:
    run_own(own)
    (table,) = files_of(own, "lengths")
    flip(table)
    own.put("text_new.txt", b"new")
    _, lengths, _ = run_own(own)
    assert len(lengths) == 12
    assert own.files() == own.files_from_nothing()


def test_a_commit_of_before_says_of_what_computation_it_is(changing: Changing) -> None:
    """Two assets of one stage and other parameters have other computations; of equal ones, the same."""
    planner = graph.Planner(changing.dataset())
    with LocalEngine(1) as engine:
        sets = dict(graph.run(planner, "p", engine))
    computations = {name: shards.commit.computation for name, shards in sets.items()}
    assert len(set(computations.values())) == len(computations)
    assert all(len(each) == len(hashlib.sha256().hexdigest()) for each in computations.values())


# Other names and limits.


def test_bytes_that_nobody_decoded_are_decoded_when_they_are_an_images(own: Changing) -> None:
    own.fields["source"] = {"components": {"txt": "{key}.txt", "bin": "{key}.dat"}}
    own.put("text_0.dat", b"no image")
    own.put("text_1.dat", photograph(1, "PNG"))
    own.run()
    own.fields["source"] = {"components": {"txt": "{key}.txt", "png": "{key}.dat"}}
    _, made = own.run()
    refused = {reject.key: reject.reason for reject in made["webdataset_shards", "p"].rejects()}
    assert refused["text_0"] == "not an image"
    assert "text_1" not in refused
    assert own.files() == own.files_from_nothing()


def test_the_words_of_a_refusal_are_of_the_sample_as_it_is(changing: Changing) -> None:
    """Nothing is refused for a caption, but the refusal names it."""
    crop = {"operation": "RandomCrop", "arguments": {"size": 14}, "components": ["jpg", "right.jpg"]}
    changing.fields |= {"transform": {"operations": [crop]}, "max_reject_ratio": 1.0}
    changing.run()
    changing.put("image_003.txt", b"a caption")
    _, made = changing.run()
    details = {reject.key: reject.detail for reject in made["transformed_shards", "p"].rejects()}
    assert details["image_003"] == "RandomCrop needs right.jpg; the sample has jpg, txt"
    assert changing.files() == changing.files_from_nothing()


def test_a_sample_without_an_image_to_embed_counts_as_known(changing: Changing) -> None:
    changing.fields |= {"embedder": {**SMALL, "component": "left.jpg"}, "max_reject_ratio": 1.0}
    changing.put("image_x.left.jpg", photograph(2000))
    changing.run()
    changing.put("image_y.left.jpg", photograph(2001))
    _, made = changing.run()
    assert (made["embeddings", "p"].computed, made["embeddings", "p"].copied) == (1, COUNT + 1)
    assert changing.files() == changing.files_from_nothing()


# What a plan says.


def test_a_plan_promises_no_copies_of_a_commit_that_is_behind(changing: Changing) -> None:
    """Three samples were packed, and then nothing made of them; a fourth is new to all."""
    for number in range(3):
        changing.put(f"later_{number}.jpg", photograph(2000 + number))
    with LocalEngine(1) as engine:
        next(shards for name, shards in graph.run(changing.dataset(), "p", engine) if name == "webdataset_shards")
    changing.put("new.jpg", photograph(1000))
    foreseen = {state.asset: state.to_compute for state in graph.states(changing.dataset(), "p")}
    _, made = changing.run()
    assert foreseen["webdataset_shards"] == 1
    assert foreseen["embeddings"] >= made["embeddings", "p"].computed == 4


def test_a_plan_promises_no_copies_for_another_component(changing: Changing) -> None:
    changing.fields["embedder"] = {**SMALL, "component": "jpg"}
    for number in range(COUNT):
        changing.put(f"image_{number:03}.right.jpg", photograph(2000 + number))
    changing.run()
    changing.fields["embedder"] = {**SMALL, "component": "right.jpg"}
    changing.put("new.right.jpg", photograph(1000))
    foreseen = {state.asset: state.to_compute for state in graph.states(changing.dataset(), "p")}
    assert changing.run()[0].embedded == COUNT + 1
    assert foreseen["embeddings"] == COUNT + 1


# What is read.


@pytest.mark.parametrize("text", ["2", "2\n", "", "\n"])
def test_a_class_that_is_known_is_not_read_for_an_embedding(
    changing: Changing, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing.fields["transform"] = None
    for number in range(COUNT):
        changing.put(f"image_{number:03}.cls", text.encode())
    changing.run()
    read: Counter[str] = Counter()
    real = StoredShard.read_range

    def counted(self: StoredShard, storage: Storage, offset: int, length: int) -> bytes:
        read[self.file_name] += length
        return real(self, storage, offset, length)

    monkeypatch.setattr(StoredShard, "read_range", counted)
    changing.put("new.jpg", photograph(1000))
    _, made = changing.run()
    (shard,) = made["webdataset_shards", "p"].shards
    assert read[shard.file_name] == len(photograph(1000))
    files, anew = changing.files(), changing.files_from_nothing()
    assert {name: files.get(name) for name in anew} == anew
