"""The backfill schedule: what is missing, failed or stale is launched, so many at a tick, and not for ever."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration.backlog import Deadline, first_that
from orchestration.runs import FIRST, LAST
from shardmill.shards.layout import Layout
from tests.orchestration.dataset_operator import LOGS, NewOperator, Operator, photograph
from tests.servers.places import NewPlace, Place

NIGHT = datetime(2026, 11, 21, 3, tzinfo=UTC)


@pytest.fixture
def where(place: NewPlace) -> Place:
    made = place("file")
    for partition in "abc":
        made.put(f"raw/{partition}/0.jpg", photograph(ord(partition)))
    return made


def operator_of(new_operator: NewOperator, where: Place, **settings: Any) -> Operator:
    """Of four declared partitions, the last of which the source has nothing of."""
    backfill = {"cron": "0 3 * * *", "max_partitions": 2, **settings}
    return new_operator(where, partitions=["a", "b", "c", "d"], sensor=None, backfill=backfill)


def keys(requests: list[dg.RunRequest]) -> list[str | None]:
    return [request.partition_key for request in requests]


def test_missing_partitions_are_launched_the_newest_first_and_bounded(where: Place, new_operator: NewOperator) -> None:
    operator = operator_of(new_operator, where)
    asked = []
    for night in range(3):
        requests = operator.scheduled(NIGHT + timedelta(days=night))
        asked.append(keys(requests))
        assert all(result.success for result in operator.run(requests))
    assert asked == [["c", "b"], ["a"], []]
    assert operator.log == "partitions launched: 0 that failed, 0 missing, 0 stale"


def test_the_oldest_come_first_if_so_declared(where: Place, new_operator: NewOperator) -> None:
    assert keys(operator_of(new_operator, where, order="oldest").scheduled(NIGHT)) == ["a", "b"]


def test_a_partition_of_which_a_run_is_under_way_is_left_alone(where: Place, new_operator: NewOperator) -> None:
    operator = operator_of(new_operator, where)
    job = operator.defs.resolve_job_def("watched_job")
    operator.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "c"})
    assert keys(operator.scheduled(NIGHT)) == ["b", "a"]


@pytest.mark.parametrize("made", ["raw_images", "all"])
def test_a_partition_is_left_alone_as_long_as_a_run_over_it_has_others_to_make(
    where: Place, new_operator: NewOperator, made: str
) -> None:
    """For Dagster it is not in progress any more, but missing, or made and maybe stale."""
    operator = new_operator(where, partitions=list("abc"), sensor=None, backfill={"cron": "0 3 * * *"})
    job = operator.defs.resolve_job_def("watched_job")
    assets = job.asset_layer.executable_asset_keys if made == "all" else [dg.AssetKey(["watched", made])]
    run = operator.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={FIRST: "b", LAST: "c"}, asset_selection=frozenset(assets)
    )
    for asset in assets:
        for partition in "abc":  # of none of them anything stands
            operator.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))
    assert keys(operator.scheduled(NIGHT)) == ["a"]
    operator.instance.delete_run(run.run_id)
    assert keys(operator.scheduled(NIGHT + timedelta(days=1))) == ["c", "b", "a"]


def test_a_partition_that_fails_is_tried_again_so_many_times(where: Place, new_operator: NewOperator) -> None:
    where.put("raw/c/1.jpg", b"")
    operator = operator_of(new_operator, where, max_partitions=1, max_failures=2)
    for night in range(2):
        (request,) = operator.scheduled(NIGHT + timedelta(days=night))
        assert request.partition_key == "c"
        assert not operator.run([request])[0].success
    (request,) = operator.scheduled(NIGHT + timedelta(days=2))
    assert request.partition_key == "b"
    assert operator.run([request])[0].success

    mended = operator_of(new_operator, where, max_partitions=1, max_failures=2)
    mended.spec = mended.spec.model_copy(update={"max_reject_ratio": 0.5})
    (request,) = mended.scheduled(NIGHT + timedelta(days=3))
    assert request.partition_key == "c", "failures under another dataset file do not count"
    assert mended.run([request])[0].success


def sharing(new_operator: NewOperator, where: Place) -> Operator:
    """Three partitions that share a run, and are given up after two failures."""
    backfill = {"cron": "0 3 * * *", "max_failures": 2}
    return new_operator(where, partitions=list("abc"), sensor=None, backfill=backfill, partitions_per_run=3)


def test_a_partition_that_is_given_up_takes_no_neighbours_with_it(where: Place, new_operator: NewOperator) -> None:
    where.put("raw/b/1.jpg", b"")
    operator = sharing(new_operator, where)
    for night in range(2):  # nobody carries on with the others
        (request,) = operator.scheduled(NIGHT + timedelta(days=night))
        assert not operator.run([request])[0].success
    requests = operator.scheduled(NIGHT + timedelta(days=2))
    assert keys(requests) == ["c", "a"]
    assert all(result.success for result in operator.run(requests))
    assert operator.scheduled(NIGHT + timedelta(days=3)) == []
    assert operator.log.endswith("1 left to a person after 2 failures (b)")


@pytest.mark.parametrize("died", [1, 2])
def test_a_run_that_died_counts_for_all_of_its_partitions(where: Place, new_operator: NewOperator, died: int) -> None:
    operator = sharing(new_operator, where)
    job = operator.defs.resolve_job_def("watched_job")
    (request,) = operator.scheduled(NIGHT)
    for _ in range(died):
        run = operator.instance.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE, tags=dict(request.tags))
    assert len(operator.scheduled(NIGHT + timedelta(days=1))) == (died == 1)
    # Dagster's own second try of a run is no second failure.
    operator.instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus.FAILURE,
        tags=dict(request.tags),
        root_run_id=run.run_id,
        parent_run_id=run.run_id,
    )
    assert len(operator.scheduled(NIGHT + timedelta(days=2))) == (died == 1)


def test_failures_before_a_success_of_whoever_launched_it_do_not_count(where: Place, new_operator: NewOperator) -> None:
    operator = operator_of(new_operator, where, max_partitions=1, max_failures=2)

    def fails(requests: list[dg.RunRequest]) -> None:
        where.put("raw/c/1.jpg", b"")
        assert keys(requests) == ["c"]
        assert not operator.run(requests)[0].success

    by_hand = [dg.RunRequest(partition_key="c")]
    fails(operator.scheduled(NIGHT))
    where.put("raw/c/1.jpg", photograph(1))
    assert operator.run(by_hand)[0].success
    fails(by_hand)
    fails(operator.scheduled(NIGHT + timedelta(days=1)))
    fails(operator.scheduled(NIGHT + timedelta(days=2)))
    assert keys(operator.scheduled(NIGHT + timedelta(days=3))) == ["b"]


@pytest.mark.parametrize("lost", ["embeddings/a", "transformed_shards", "."])
def test_what_was_made_and_is_not_there_any_more_is_made_again(
    where: Place, new_operator: NewOperator, lost: str
) -> None:
    """Dagster has it down as materialized."""
    operator = new_operator(where, partitions=["a", "b"], sensor=None, backfill={"cron": "0 3 * * *"})
    operator.run(operator.scheduled(NIGHT))
    assert operator.scheduled(NIGHT + timedelta(days=1)) == []
    shutil.rmtree(Path(operator.spec.root.removeprefix("file://")) / "watched" / lost)
    wanted = ["a"] if lost.endswith("/a") else ["b", "a"]
    requests = operator.scheduled(NIGHT + timedelta(days=2))
    assert keys(requests) == wanted
    assert all(result.success for result in operator.run(requests))
    assert operator.scheduled(NIGHT + timedelta(days=3)) == []


def test_stale_partitions_are_made_anew(where: Place, new_operator: NewOperator) -> None:
    operator = operator_of(new_operator, where, max_partitions=3)
    operator.run(operator.scheduled(NIGHT))
    assert operator.scheduled(NIGHT + timedelta(days=1)) == []

    smaller = {"operations": [{"operation": "Resize", "arguments": {"size": 16}}]}
    changed = new_operator(
        where, partitions=["a", "b", "c", "d"], sensor=None, transform=smaller, backfill={"cron": "0 3 * * *"}
    )
    requests = changed.scheduled(NIGHT + timedelta(days=2))
    assert keys(requests) == ["c", "b", "a"]
    made = changed.made(changed.run(requests[:1]))
    assert made["c"]["webdataset_shards"] == 0
    assert made["c"]["transformed_shards"] == 1
    assert keys(changed.scheduled(NIGHT + timedelta(days=3))) == ["b", "a"]


def test_neighbours_share_a_run(where: Place, new_operator: NewOperator) -> None:
    backfill = {"cron": "0 3 * * *"}
    operator = new_operator(where, partitions=list("abcd"), sensor=None, backfill=backfill, partitions_per_run=2)
    requests = operator.scheduled(NIGHT)
    ranges = [(request.tags.get("dagster/asset_partition_range_start"), request.partition_key) for request in requests]
    assert ranges == [(None, "c"), ("a", None)], "the newest first"


def test_assets_follow_the_asset_before_them(where: Place, new_operator: NewOperator) -> None:
    operator = new_operator(where, partitions=["a", "b"], sensor=None, automation=True)
    raw = dg.AssetKey(["watched", "raw_images"])
    first = dg.evaluate_automation_conditions(operator.defs, operator.instance)
    assert first.total_requested == 0
    assert operator.run([dg.RunRequest(partition_key="a", asset_selection=[raw])])[0].success
    found = dg.evaluate_automation_conditions(operator.defs, operator.instance, cursor=first.cursor)
    assert found.get_requested_partitions(dg.AssetKey(["watched", "webdataset_shards"])) == {"a"}
    assert found.get_requested_partitions(dg.AssetKey(["watched", "embedding_map"])) == {"a"}
    again = dg.evaluate_automation_conditions(operator.defs, operator.instance, cursor=found.cursor)
    assert again.total_requested == 0


@pytest.mark.parametrize("partitions_per_run", [1, 2])
def test_what_failed_is_not_tried_again_by_automation(
    where: Place, new_operator: NewOperator, partitions_per_run: int
) -> None:
    where.put("raw/b/1.jpg", b"")
    backfill = {"cron": "0 3 * * *"}
    operator = new_operator(
        where,
        partitions=["a", "b"],
        sensor=None,
        automation=True,
        backfill=backfill,
        partitions_per_run=partitions_per_run,
    )
    first = dg.evaluate_automation_conditions(operator.defs, operator.instance)
    results = operator.run(operator.scheduled(NIGHT))
    assert not all(result.success for result in results)
    found = dg.evaluate_automation_conditions(operator.defs, operator.instance, cursor=first.cursor)
    assert found.total_requested == 0


def test_a_damaged_commit_or_a_key_of_somebody_s_stops_no_other_partition(
    where: Place, new_operator: NewOperator
) -> None:
    operator = new_operator(where, sensor=None, backfill={"cron": "0 3 * * *"})
    operator.instance.add_dynamic_partitions("watched", ["a", "b", "c", "by hand", "x" * 90 + "~~0123456789abcdef"])
    operator.run(operator.scheduled(NIGHT))
    layout = Layout.at(operator.dataset.folder("webdataset_shards", "a"))
    Path(layout.commit.removeprefix("file://")).write_text("{")
    assert keys(operator.scheduled(NIGHT + timedelta(days=1))) == ["a"]


def test_a_partition_waits_for_its_marker_here_too(where: Place, new_operator: NewOperator) -> None:
    source = {"uri": f"{where.uri}/raw/{{partition}}", "marker": "_SUCCESS"}
    backfill = {"cron": "0 3 * * *"}
    operator = new_operator(where, source=source, partitions=list("abcd"), sensor=None, backfill=backfill)
    assert operator.scheduled(NIGHT) == []
    where.put("raw/b/_SUCCESS", b"")
    assert keys(operator.scheduled(NIGHT)) == ["b"]


class Soon(Deadline):
    """Over when it has been asked about four times."""

    times = 0

    @property
    def over(self) -> bool:
        self.times += 1
        return self.times > 4


def test_where_there_is_no_time_for_all_each_tick_looks_at_others() -> None:
    keys = [f"{number:05}" for number in range(2_000)]
    asked: set[str] = set()

    def holds(key: str) -> bool:
        asked.add(key)
        return False

    for turn in range(30):
        found, left = first_that(holds, keys, 10, Soon(1), turn)
        assert found == []
        assert left == 2_000 - 4 * 32
    assert len(asked) > 1_000


def test_the_first_come_first_and_no_more_than_asked_for() -> None:
    keys = [f"{number:05}" for number in range(1_000)]
    found, left = first_that(lambda key: int(key) % 2 == 0, keys, 3, Deadline(60), 7)
    assert (found, left) == (["00000", "00002", "00004"], 0)


def test_the_health_check_says_which_partitions_failed_and_why(where: Place, new_operator: NewOperator) -> None:
    where.put("raw/b/1.jpg", b"")
    operator = operator_of(new_operator, where, max_partitions=3)
    operator.run(operator.scheduled(NIGHT))
    job = operator.defs.resolve_job_def("watched_health_job")
    result = job.execute_in_process(run_config=LOGS, instance=operator.instance)
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    metadata = evaluation.metadata
    (failed,) = [record.data for record in metadata["failed partitions"].records]
    assert (failed["partition"], failed["asset"]) == ("b", "webdataset_shards")
    assert "max_reject_ratio" in str(failed["reason"])
    by_state = {row.data["asset"]: row.data for row in metadata["by state"].records}
    assert by_state["embeddings"] == {
        "asset": "embeddings",
        "materialized": 2,
        "failed": 1,
        "in progress": 0,
        "missing": 1,
    }
    assert str(metadata["history"].value).startswith("![history](data:image/png;base64,")
    assert "last success" in metadata
