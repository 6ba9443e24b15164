"""Asset checks: nothing lost, shards readable, embeddings sound and of one model, neighbours of the same class."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import dagster as dg

from assets.common import asset_key, partitions_of
from resources.storage import StorageResource
from shardmill.dataset import RAW, Dataset, DatasetSpec
from shardmill.errors import SupersededError
from shardmill.graph import PACKED, Asset, Graph, accounts_of, look_at_models
from shardmill.projection import same_class_rate
from shardmill.projection.neighbours import MAXIMUM_ROWS
from shardmill.shards.reader import ShardSet
from shardmill.shards.scrub import ROUNDS, due_for_scrub, mark_as_sound
from shardmill.shards.verify import read_with_webdataset
from shardmill.stages.embed import EmbedStage
from shardmill.stages.embedding_table import vectors_of

_NO_PARTITION = "this check is made with a partition: materialize one, and it is looked at then"
_TRIES = 5
_LISTED = 100
"""Partitions of which a check shows the figures."""

Metadata = dict[str, Any]
Verdict = Callable[[Dataset, Asset, str, ShardSet], tuple[bool, Metadata]]
"""From a dataset, an asset, a partition and its committed set to whether it passed, and the figures that say why."""
Judge = Callable[[Dataset, Asset, Sequence[str]], tuple[bool, Metadata]]
"""Likewise, on the partitions of a run."""


def build_checks(spec: DatasetSpec, graph: Graph) -> list[dg.AssetChecksDefinition]:
    """The checks of one dataset's assets: what fits the inputs, the format and the stage of each."""
    checks = []
    for asset in graph:
        for name, text, verdict in _checks_of(spec, graph, asset):
            checks.append(_check(spec, asset, name, text, partial(_judge_each, verdict)))
        if isinstance(asset.stage, EmbedStage):
            text = "The vectors of all partitions come from one model, with the same weights and preprocessing."
            checks.append(_check(spec, asset, "one_model", text, _one_model, dg.AssetCheckSeverity.WARN))
    return checks


def _checks_of(spec: DatasetSpec, graph: Graph, asset: Asset) -> Iterator[tuple[str, str, Verdict]]:
    if asset.inputs and asset.scope == graph[asset.inputs[0]].scope:
        yield "nothing_lost", "Samples in = kept + filtered + rejects, in every shard.", _nothing_lost
    if asset.name == PACKED:
        text = "Every listed object is in a sample, in a reject, or left out by a named rule: the three add up."
        yield "accounted_for", text, _accounted_for
    if asset.format == "tar":
        text = (
            "Every byte is what was committed, and the webdataset library reads every sample: of the new shards, and "
            f"of the others in turn, so that damage is found within {ROUNDS} runs."
        )
        yield "readable", text, _readable
    if isinstance(asset.stage, EmbedStage):
        text = "One finite vector a sample, of the right size, and not zero; of length 1 if normalized."
        yield "sound", text, _sound
        if spec.min_same_class_rate is not None:
            rate = f"{spec.min_same_class_rate:.0%}"
            text = f"The nearest neighbour has the same class for at least {rate} of the samples."
            yield "same_class_neighbours", text, _same_class


def _check(
    spec: DatasetSpec,
    asset: Asset,
    name: str,
    description: str,
    judge: Judge,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    def check(context: dg.AssetCheckExecutionContext, storage: StorageResource) -> dg.AssetCheckResult:
        dataset = Dataset(spec, storage.open())
        try:
            partitions = list(context.op_execution_context.partition_keys)
        except dg.DagsterInvariantViolationError:  # Dagster has no result of a partitioned check for a run of none
            raise dg.Failure(_NO_PARTITION, allow_retries=False) from None
        passed, metadata = judge(dataset, asset, partitions)
        return dg.AssetCheckResult(passed=passed, metadata=metadata, severity=severity)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # partitioned checks are; the UI shows them well
        return dg.asset_check(
            asset=asset_key(spec, asset.name), name=name, description=description, partitions_def=partitions_of(spec)
        )(check)


def _judge_each(verdict: Verdict, dataset: Dataset, asset: Asset, partitions: Sequence[str]) -> tuple[bool, Metadata]:
    """Each partition for itself; the figures of several by partition."""
    results = {partition: _verdict(verdict, dataset, asset, partition) for partition in partitions}
    failed = {partition: found for partition, (good, found) in results.items() if not good}
    if len(results) == 1:
        ((_, metadata),) = results.values()
    elif len(results) <= _LISTED:
        metadata = {partition: found for partition, (_, found) in results.items()}
    else:
        metadata = {"partitions": len(results), "failed": len(failed), **dict(islice(failed.items(), _LISTED))}
    return not failed, metadata


def _verdict(verdict: Verdict, dataset: Dataset, asset: Asset, partition: str) -> tuple[bool, Metadata]:
    """The verdict; stored bytes that cannot be read at all fail a check like any others.

    Where another run commits meanwhile, the verdict is on what stands then.
    """
    for left in reversed(range(_TRIES)):
        try:
            shards = dataset.stored(asset.name, asset.place(partition))
            if shards is None:
                return False, {"reason": f"nothing is committed for {partition}: materialize it first"}
            return verdict(dataset, asset, partition, shards)
        except Exception as error:  # whatever webdataset, tarfile or pyarrow make of them
            if not (left and isinstance(error, SupersededError)):
                return False, {"reason": f"{type(error).__name__}: {error}"}
    raise AssertionError


def _nothing_lost(dataset: Dataset, asset: Asset, partition: str, shards: ShardSet) -> tuple[bool, Metadata]:
    """Also against the asset before: what went in here is what came out there."""
    commit = shards.commit
    before = dataset.stored(asset.inputs[0], asset.place(partition))
    came = before.commit.total_samples if before else -1
    lost = [e.id for e in commit.shards if e.samples_in != e.kept + e.filtered + e.total_rejects]
    figures = {
        "samples of the asset before": came,
        "samples in": commit.total_samples_in,
        "samples out": commit.total_samples,
        "filtered": commit.total_filtered,
        "rejects": commit.total_rejects,
        "shards that lost samples": ", ".join(lost) or "none",
    }
    return came == commit.total_samples_in and not lost, figures


def _accounted_for(dataset: Dataset, _asset: Asset, partition: str, shards: ShardSet) -> tuple[bool, Metadata]:
    raw = dataset.stored(RAW, partition)
    if raw is None:
        return False, {"reason": f"nothing is committed of {RAW}: materialize it first"}
    accounts = accounts_of(raw.commit, shards.commit)
    figures: Metadata = {
        "objects listed": accounts.listed,
        "in samples": accounts.in_samples,
        "in rejects": accounts.in_rejects,
        "left out": sum(accounts.left_out.values()),
    }
    if accounts.left_out:
        records = [dg.TableRecord({"rule": rule, "objects": count}) for rule, count in accounts.left_out.items()]
        figures["left out by rule"] = dg.MetadataValue.table(records)
    return accounts.add_up, figures


def _readable(_dataset: Dataset, _asset: Asset, _partition: str, shards: ShardSet) -> tuple[bool, Metadata]:
    due = due_for_scrub(shards)
    samples, size = read_with_webdataset(shards, due)
    verified = sum(1 for shard in due for _ in shard.read(shards.storage))
    expected = sum(shard.samples for shard in due)
    total = sum(entry.nsamples for entry in shards.commit.shardlist)
    passed = samples == verified == expected and total == shards.commit.total_samples
    if passed:
        mark_as_sound(shards, due)
    figures = {"shards": len(shards.shards), "shards read": len(due), "samples read": samples, "bytes read": size}
    return passed, {**figures, "samples expected": expected}


def _sound(_dataset: Dataset, asset: Asset, _partition: str, shards: ShardSet) -> tuple[bool, Metadata]:
    import numpy as np

    rows, dimensions, finite, norms = 0, set(), True, [np.empty(0)]
    for batch in shards.pinned_here().batches(["embedding"]):
        vectors = vectors_of(batch).astype(np.float32)
        rows += len(vectors)
        dimensions.add(vectors.shape[1])
        finite = finite and bool(np.isfinite(vectors).all())
        norms.append(np.linalg.norm(vectors, axis=1))
    lengths = np.concatenate(norms)
    low, high = (float(lengths.min()), float(lengths.max())) if rows else (1.0, 1.0)
    assert isinstance(asset.stage, EmbedStage)
    expected = (0.99, 1.01) if asset.stage.spec.normalize else (1e-6, float("inf"))
    size = {int(entry.summary["dimensions"]) for entry in shards.commit.shardlist}
    passed = finite and rows == shards.commit.total_samples and expected[0] <= low and high <= expected[1]
    figures = {"rows": rows, "all finite": finite, "smallest norm": low, "largest norm": high}
    return passed and dimensions == size and len(size) <= 1, {
        **figures,
        "dimensions": ", ".join(map(str, sorted(dimensions))),
    }


def _same_class(dataset: Dataset, _asset: Asset, _partition: str, shards: ShardSet) -> tuple[bool, Metadata]:
    import numpy as np

    # Every so many rows, so that memory does not grow with the table.
    step = -(-shards.commit.total_samples // MAXIMUM_ROWS) or 1
    vectors, labels, row = [], [], 0
    for batch in shards.pinned_here().batches(["embedding", "cls"]):
        taken = np.arange(-row % step, batch.num_rows, step)
        vectors.append(vectors_of(batch)[taken])
        labels += batch["cls"].take(taken).to_pylist()
        row += batch.num_rows
    rate = same_class_rate(np.concatenate(vectors), labels) if vectors else float("nan")
    threshold = dataset.spec.min_same_class_rate or 0.0
    return rate >= threshold, {"share with a neighbour of the same class": rate, "at least": threshold}


def _one_model(dataset: Dataset, asset: Asset, partitions: Sequence[str]) -> tuple[bool, Metadata]:
    """With others than those of the run: a model is changed partition by partition."""
    models, looked = look_at_models(dataset, asset.name, partitions)
    records = [
        dg.TableRecord({"model": each.model, "partitions": len(each.partitions), "such as": each.partitions[0]})
        for each in models
    ]
    figures: Metadata = {"models": len(models), "partitions looked at": looked}
    if records:
        figures["partitions by model"] = dg.MetadataValue.table(records)
    return len(models) <= 1, figures
