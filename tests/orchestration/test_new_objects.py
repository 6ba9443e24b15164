"""The new-objects sensor, with nobody's hand on anything: objects come, change and go, and the embeddings follow."""

import io

import dagster as dg
import pandas as pd
import pytest

from tests.orchestration.dataset_operator import NewOperator, Operator, photograph
from tests.servers.places import Kind, NewPlace


def rows(operator: Operator, partition: str) -> set[str]:
    """Source URIs of the embeddings, by their last two names."""
    dataset = operator.dataset
    folder = dataset.folder("embeddings", partition)
    found: set[str] = set()
    for info in dataset.storage.list(folder):
        table = pd.read_parquet(io.BytesIO(dataset.storage.read(info.uri)))
        found |= {"/".join(uri.split("/")[-2:]) for uri in table["source_uri"]}
    return found


@pytest.mark.parametrize("kind", ["file", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gs", "s3"))])
def test_objects_come_change_and_go_and_the_embeddings_follow(
    kind: Kind, place: NewPlace, new_operator: NewOperator
) -> None:
    where = place(kind)
    operator = new_operator(where)
    for number in range(12):
        where.put(f"raw/a/{number}.jpg", photograph(number))
    where.put("raw/b c/0.jpg", photograph(50))

    # Dropped: one run a partition.
    results = operator.tick()
    assert [result.success for result in results] == [True, True]
    assert set(operator.instance.get_dynamic_partitions("watched")) == {"a", "b~20c"}
    assert rows(operator, "a") == {f"a/{number}.jpg" for number in range(12)}
    assert rows(operator, "b~20c") == {"b c/0.jpg"}
    shards = operator.made(results)["a"]["webdataset_shards"]
    assert shards >= 3
    assert operator.tick() == []

    # Dropped into the same partition: one run, which makes the changed shards and no other.
    where.put("raw/a/12.jpg", photograph(12))
    results = operator.tick()
    made = operator.made(results)
    assert made.keys() == {"a"}
    assert {made["a"][asset] for asset in ("webdataset_shards", "transformed_shards", "embeddings")} <= {1, 2}
    assert rows(operator, "a") == {f"a/{number}.jpg" for number in range(13)}
    assert operator.tick() == []

    # Deleted: the rows go.
    operator.dataset.storage.delete(f"{where.uri}/raw/a/3.jpg")
    operator.dataset.storage.delete(f"{where.uri}/raw/b c/0.jpg")
    assert operator.made(operator.tick()).keys() == {"a", "b~20c"}
    assert rows(operator, "a") == {f"a/{number}.jpg" for number in range(13) if number != 3}
    assert rows(operator, "b~20c") == set()
    assert operator.tick() == []


def test_ranges_take_neighbours_and_one_partition_of_a_run_fails_alone(
    place: NewPlace, new_operator: NewOperator
) -> None:
    where = place("file")
    operator = new_operator(where, partitions_per_run=3)
    for partition in "abcd":
        where.put(f"raw/{partition}/0.jpg", photograph(ord(partition)))
    where.put("raw/b/1.jpg", b"")  # more than max_reject_ratio

    requests = operator.requests()
    assert [request.partition_key for request in requests] == [None, "d"]
    first, second = operator.run(requests)
    assert not first.success
    assert second.success
    failed = [event for event in first.all_events if event.is_step_failure]
    assert "1 of 3 partitions failed" in failed[0].step_failure_data.user_failure_data.description

    carried_on = operator.carry_on(first)
    assert [request.partition_key for request in carried_on] == ["a", "c"]
    assert all(result.success for result in operator.run(carried_on))
    keys = list("abcd")
    asset = dg.AssetKey(["watched", "embeddings"])
    definition = dg.DynamicPartitionsDefinition(name="watched")
    statuses = operator.instance.get_status_by_partition(asset, keys, definition)
    assert statuses is not None
    assert [statuses[key] for key in keys] == [
        dg.AssetPartitionStatus.MATERIALIZED,
        dg.AssetPartitionStatus.FAILED,
        dg.AssetPartitionStatus.MATERIALIZED,
        dg.AssetPartitionStatus.MATERIALIZED,
    ]
    assert operator.tick() == [], "a failed partition is the schedule's business, until its content changes"

    operator.dataset.storage.delete(f"{where.uri}/raw/b/1.jpg")
    assert operator.made(operator.tick()).keys() == {"b"}


def test_a_lost_cursor_leads_to_no_run_where_the_commits_are_right(place: NewPlace, new_operator: NewOperator) -> None:
    where = place("file")
    operator = new_operator(where)
    for partition in "ab":
        where.put(f"raw/{partition}/0.jpg", photograph(ord(partition)))
    assert len(operator.tick()) == 2
    for lost in (None, "", "{}", "garbage", '{"format": 0}'):
        operator.cursor = lost
        assert operator.requests() == []
        assert "comparing everything with what is committed" in operator.log


def test_a_partition_waits_for_the_run_that_is_under_way(place: NewPlace, new_operator: NewOperator) -> None:
    where = place("file")
    operator = new_operator(where)
    where.put("raw/a/0.jpg", photograph(0))
    operator.instance.add_dynamic_partitions("watched", ["a"])
    job = operator.defs.resolve_job_def("watched_job")
    run = operator.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "a"})
    assert operator.requests() == []
    assert "1 pending" in operator.log
    operator.instance.delete_run(run.run_id)
    assert [request.partition_key for request in operator.requests()] == ["a"]


def test_no_more_runs_are_asked_for_at_a_tick_than_allowed(place: NewPlace, new_operator: NewOperator) -> None:
    where = place("file")
    operator = new_operator(where, sensor={"quiet_seconds": 0, "max_partitions_per_tick": 2})
    for number in range(5):
        where.put(f"raw/{number}/0.jpg", photograph(number))
    asked = [[request.partition_key for request in operator.requests()] for _ in range(4)]
    assert asked == [["0", "1"], ["2", "3"], ["4"], []]


def test_time_partitions_follow_their_folders(place: NewPlace, new_operator: NewOperator) -> None:
    where = place("file")
    time = {"by": "time", "every": "day", "start": "2026-01-01"}
    operator = new_operator(where, "%Y/%m/%d", partitions=time)
    where.put("raw/2026/02/03/x.jpg", photograph(1))
    where.put("raw/2026/02/30/x.jpg", photograph(1))  # no day
    results = operator.tick()
    assert operator.made(results).keys() == {"2026-02-03"}
    assert rows(operator, "2026-02-03") == {"03/x.jpg"}


def test_batches_are_sealed_and_run(place: NewPlace, new_operator: NewOperator) -> None:
    where = place("file")
    batches = {"by": "batch", "max_objects": 3, "max_age_minutes": 60}
    operator = new_operator(where, "", partitions=batches)
    for number in range(7):
        where.put(f"raw/any/{number}.jpg", photograph(number))
    assert operator.made(operator.tick()).keys() == {"batch-000001", "batch-000002"}
    assert rows(operator, "batch-000001") == {"any/0.jpg", "any/1.jpg", "any/2.jpg"}
    assert rows(operator, "batch-000002") == {"any/3.jpg", "any/4.jpg", "any/5.jpg"}
    assert operator.requests() == []
    assert "1 new objects wait for their batch" in operator.log
    where.put("raw/any/1.jpg", photograph(100))
    operator.dataset.storage.delete(f"{where.uri}/raw/any/4.jpg")
    assert operator.made(operator.tick()).keys() == {"batch-000001", "batch-000002"}
    assert rows(operator, "batch-000002") == {"any/3.jpg", "any/5.jpg"}


def test_names_with_underscores_do_not_lead_to_another_dataset(place: NewPlace, new_operator: NewOperator) -> None:
    where = place("file")
    for partition in "ab":
        where.put(f"raw/{partition}/0.jpg", photograph(ord(partition)))
    where.put("raw/b/1.jpg", b"")
    operator = new_operator(where, name="my__set_", partitions_per_run=2)
    (failed,) = operator.run(operator.requests())
    (request,) = operator.carry_on(failed)
    assert (request.job_name, request.partition_key) == ("my__set__job", "a")
