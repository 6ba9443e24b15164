"""What an engine need not know: shards that are made with others, by whatever engine, and stages of every kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardmill import graph
from shardmill.engines import Engine, beam, choose_engine, making
from shardmill.engines.making import EntryOfSeveral, MakeShard, PlannedShard, made_already, make_one
from shardmill.engines.ray_worker import RayWorker
from shardmill.errors import EngineError, StorageError
from shardmill.progress import Progress
from shardmill.shards.layout import Layout
from shardmill.shards.publish import published_entry
from shardmill.shards.verify import verify
from shardmill.storage import Storage
from shardmill.torchvision_compat import import_torchvision
from tests.shardmill.engines.recording import STEPS, begun, planned
from tests.shardmill.engines.simulated_ray import SimulatedRay, cluster
from tests.small_embedder import SMALL

__all__ = ["cluster"]

Planned = tuple[MakeShard, list[PlannedShard]]


@pytest.fixture
def engine(cluster: SimulatedRay, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """`choose_engine`, where Ray is simulated and Beam's answers are soon heard."""
    monkeypatch.setattr(beam, "_LOOK_EVERY", 0.05)
    return choose_engine


@pytest.fixture
def several(tmp_path: Path) -> Planned:
    """Four shards, with those of two other assets beside each."""
    make, shards = planned(tmp_path / "log", _folder(tmp_path, "one"), 4)
    return make, [
        PlannedShard(
            shard.input,
            shard.fingerprint,
            beside=tuple(
                (MakeShard(make.stage, Layout.at(_folder(tmp_path, name))), shard) for name in ("two", "three")
            ),
        )
        for shard in shards
    ]


def _folder(tmp_path: Path, asset: str) -> str:
    return f"file://{tmp_path}/d/{asset}/p"


def makes(make: MakeShard, shard: PlannedShard) -> list[tuple[MakeShard, PlannedShard]]:
    return [(make, shard), *shard.beside]


@pytest.mark.parametrize(("word", "workers"), [("local", 1), ("local", 2), ("ray", None), ("beam", 2)])
def test_every_engine_brings_back_the_entries_of_shards_that_are_made_together(
    several: Planned, engine: Callable[..., Engine], word: str, workers: int | None
) -> None:
    make, shards = several
    advanced: list[int] = []
    entries = {entry.id: entry for entry in engine(word, workers).run(make, shards, Storage(), advanced.append)}
    assert sorted(entries) == [shard.id for shard in shards]
    for shard in shards:
        found = entries[shard.id]
        assert isinstance(found, EntryOfSeveral)
        stand = [published_entry(Storage(), each.layout, its.id, its.fingerprint) for each, its in makes(make, shard)]
        assert [entry.index_sha256 for entry in found.each] == [entry and entry.index_sha256 for entry in stand]
        assert len(stand) == 3
    assert sum(advanced) == 4 * 3 * STEPS


def test_of_shards_that_are_made_together_all_have_to_stand_to_be_made_already(several: Planned) -> None:
    make, [shard, *_] = several
    for count, (one, its) in enumerate(makes(make, shard)):
        assert made_already(make, shard, Storage()) is None, count
        make_one(one, PlannedShard(its.input, its.fingerprint), Storage(), 1, lambda _: None)
    found = made_already(make, shard, Storage())
    assert isinstance(found, EntryOfSeveral)
    assert [entry.id for entry in found.each] == [shard.id] * 3


def test_a_look_at_what_stands_that_fails_names_the_shard(
    several: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StorageError("the store is away")

    monkeypatch.setattr(making, "published_entry", away)
    make, [shard, *_] = several
    made = RayWorker(1).make(make, shard, Storage(), True)
    assert isinstance(made.error, EngineError)
    assert f"record failed on shard 000000 of {make.layout.folder}: the store is away" in str(made.error)


def test_what_was_made_together_is_not_made_again_on_ray_and_counts_as_if_it_were(
    several: Planned, tmp_path: Path
) -> None:
    make, [shard, *_] = several
    worker = RayWorker(1)
    first = worker.make(make, shard, Storage(), False)
    again = worker.make(make, shard, Storage(), True)
    assert again.samples == first.samples == 3 * STEPS
    assert isinstance(again.entry, EntryOfSeveral)
    assert len(begun(tmp_path / "log")) == 3


def test_what_was_made_together_is_not_made_again_on_beam_and_counts_as_if_it_were(
    several: Planned, tmp_path: Path, engine: Callable[..., Engine]
) -> None:
    make, shards = several
    list(engine("local", 1).run(make, shards[:3], Storage(), lambda _: None))
    advanced: list[int] = []
    entries = list(engine("beam", 1).run(make, shards, Storage(), advanced.append))
    assert {type(entry) for entry in entries} == {EntryOfSeveral}
    assert sum(advanced) == 4 * 3 * STEPS
    assert len(begun(tmp_path / "log")) == 4 * 3


STAGE = """
    from shardmill import FileStage, OutputFile, Rejected

    class Sizes(FileStage):
        component = "jpg"
        name = "sizes"
        columns = {"bytes": "int32", "head": "string"}

        def process(self, file):
            if file.key.endswith("7"):
                raise Rejected("told to")
            for number in range(2):
                head = file.data[number : number + 8]
                yield OutputFile(f"{number}.bin", head, {"bytes": len(file.data), "head": head.hex()})
"""


def test_stages_of_every_kind_give_the_same_files_on_every_engine(
    tmp_path: Path,
    images: Any,
    make_dataset: Any,
    snapshot: Any,
    write_module: Callable[[str], str],
    engine: Callable[..., Engine],
) -> None:
    """Several embedders in one pass, one of them timm's; a stage of files and its table; rejects."""
    import_torchvision()
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pt")
    images(tmp_path / "raw", 20)
    fields: dict[str, Any] = {
        "embedder": None,
        "embedders": {
            "plain": {**SMALL, "component": "jpg"},
            "unit": {**SMALL, "normalize": True, "dtype": "float16"},
            "vit": {"model": "timm/test_vit", "weights": str(tmp_path / "vit.pt"), "runtime": "torch"},
        },
        "stages": [{"name": "sizes", "use": f"{write_module(STAGE)}:Sizes", "of": "webdataset_shards"}],
        "shards": {"max_samples": 10},
        "transform": None,
        "max_reject_ratio": 0.1,
    }
    made = {}
    for word in ("local", "ray", "beam"):
        told: list[Progress] = []
        dataset = make_dataset(tmp_path / "raw", tmp_path / word, **fields)
        with engine(word, 2) as opened:
            commits = {
                asset: shards.commit
                for asset, shards in graph.run(dataset, "p", opened, told.append)
                if not [*verify(shards)]
            }
        assert {"sizes", "sizes_metadata", "embeddings_plain", "embeddings_unit", "embeddings_vit"} <= commits.keys()
        assert "embed " + ", ".join(f"d/embeddings_{name}/p" for name in fields["embedders"]) in {
            state.task for state in told
        }
        files = {name: digest for name, (digest, _) in snapshot(tmp_path / word).items()}
        # index.json says how long each shard took
        data = {name: digest for name, digest in files.items() if not name.endswith("index.json")}
        made[word] = data, {asset: (commit.digest, commit.rejects_by_reason) for asset, commit in commits.items()}
    assert made["ray"] == made["local"]
    assert made["beam"] == made["local"]
    assert made["local"][1]["sizes"][1] == {"told to": 2}
