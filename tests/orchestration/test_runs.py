"""Which runs count as under way, and over which partitions they are."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from orchestration.runs import FIRST, LAST, PARTITION, under_way
from shardmill.dataset import DatasetSpec

KEYS = list("abcd")
SOURCE = {"uri": "/raw/{partition}"}
SPEC = DatasetSpec.model_validate({"name": "d", "root": "/nowhere", "source": SOURCE, "partitions": KEYS})
OVER = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
    dg.DagsterRunStatus.MANAGED,  # Dagster would never hear of its end
)
# A run that waits in a queue has to say where its code is. Dagster exports no class to say it with, but reads this.
ORIGIN: Any = dg.deserialize_value(
    """{"__class__": "ExternalPipelineOrigin", "pipeline_name": "d_job", "external_repository_origin": {
    "__class__": "ExternalRepositoryOrigin", "repository_name": "repository", "repository_location_origin": {
    "__class__": "RegisteredRepositoryLocationOrigin", "location_name": "shardmill"}}}"""
)


@dg.job(name="d_job")
def whole() -> None:
    """The job over all assets of the dataset, as far as its name goes."""


@dg.job(name="other_job")
def others() -> None:
    """Another dataset's."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.mark.parametrize("status", list(dg.DagsterRunStatus))
def test_a_run_is_under_way_from_its_launch_until_it_is_over(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    """Also while it waits in a queue, and while it is being cancelled."""
    instance.create_run_for_job(whole, status=status, tags={PARTITION: "b"}, remote_job_origin=ORIGIN)
    assert under_way(instance, SPEC, KEYS) == (set() if status in OVER else {"b"})


def test_a_run_over_a_range_takes_all_of_it_and_one_of_another_dataset_nothing(instance: dg.DagsterInstance) -> None:
    started = dg.DagsterRunStatus.STARTED
    instance.create_run_for_job(whole, status=started, tags={FIRST: "b", LAST: "d"})
    instance.create_run_for_job(others, status=started, tags={PARTITION: "a"})
    assert under_way(instance, SPEC, KEYS) == {"b", "c", "d"}


@pytest.mark.parametrize(("dataset", "busy"), [("d", {"a"}), ("other", set())])
def test_a_run_over_assets_of_the_dataset_is_one_of_it_whatever_its_job(
    instance: dg.DagsterInstance, dataset: str, busy: set[str]
) -> None:
    """As the UI launches them."""

    def embeddings(name: str) -> dg.AssetsDefinition:
        @dg.asset(key=[name, "embeddings"], partitions_def=dg.StaticPartitionsDefinition(KEYS))
        def made() -> None: ...

        return made

    both = [embeddings("d"), embeddings("other")]
    by_hand = dg.Definitions(both, jobs=[dg.define_asset_job("by_hand")]).resolve_job_def("by_hand")
    selected = frozenset([dg.AssetKey([dataset, "embeddings"])])
    started = dg.DagsterRunStatus.STARTED
    instance.create_run_for_job(by_hand, status=started, tags={PARTITION: "a"}, asset_selection=selected)
    assert under_way(instance, SPEC, KEYS) == busy


def test_a_run_over_partitions_that_are_no_more_takes_none(instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(whole, status=dg.DagsterRunStatus.STARTED, tags={FIRST: "b", LAST: "gone"})
    assert under_way(instance, SPEC, KEYS) == set()
