"""Which runs carry on with the partitions that did not fail."""

import dagster as dg

from orchestration.component import dataset_definitions
from orchestration.definitions import build_defs
from tests.orchestration.dataset_operator import LOGS, NewOperator, photograph
from tests.servers.places import NewPlace

CHOSEN = ("raw_images", "webdataset_shards")


def test_a_run_over_two_datasets_is_carried_on_with_for_each_of_them(
    place: NewPlace, new_operator: NewOperator
) -> None:
    where = place("file")
    for dataset, bad in (("one", "b"), ("two", "c")):
        for partition in "abc":
            where.put(f"raw/{dataset}/{partition}/0.jpg", photograph(ord(partition)))
        where.put(f"raw/{dataset}/{bad}/1.jpg", b"")
    one, two = (
        new_operator(where, f"{name}/{{partition}}", name=name, partitions=list("abc"), sensor=None)
        for name in ("one", "two")
    )
    keys = [dg.AssetKey([name, asset]) for name in ("one", "two") for asset in CHOSEN]
    datasets = [dataset_definitions(operator.spec) for operator in (one, two)]
    jobs = dg.Definitions(jobs=[dg.define_asset_job("both", dg.AssetSelection.assets(*keys))])
    defs = build_defs(dg.Definitions.merge(*datasets, jobs), {"storage": one.resource})
    failed = defs.resolve_job_def("both").execute_in_process(
        run_config=LOGS,
        instance=one.instance,
        tags={"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"},
        asset_selection=keys,
        raise_on_error=False,
    )
    requests = one.carry_on(failed)
    asked = [  # of each dataset its own assets
        (request.job_name, request.partition_key, {key.path[-1] for key in request.asset_selection or ()})
        for request in requests
        if {key.path[0] for key in request.asset_selection or ()} == {request.tags["shardmill/dataset"]}
    ]
    ranges = [request.tags.get("dagster/asset_partition_range_end") for request in requests]
    assert sorted(asked, key=str) == [
        ("one_job", "a", set(CHOSEN)),
        ("one_job", "c", set(CHOSEN)),
        ("two_job", None, set(CHOSEN)),
    ]
    assert [end for end in ranges if end] == ["b"]
    assert all(result.success for result in one.run([each for each in requests if each.job_name == "one_job"]))
    assert all(result.success for result in two.run([each for each in requests if each.job_name == "two_job"]))
