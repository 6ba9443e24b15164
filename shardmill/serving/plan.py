"""The transform that is served, and what it makes of a shard or of one component."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO

from shardmill.dataset import Dataset
from shardmill.errors import ConfigurationError, CorruptionError, Rejected, SampleError
from shardmill.graph import build_graph
from shardmill.images import verify_image
from shardmill.memory import lacks_memory
from shardmill.samples import EncodedSample, image_format
from shardmill.serving.limits import SHARD_SAMPLES, Spool
from shardmill.serving.names import Named
from shardmill.serving.refusals import Refusal, full
from shardmill.serving.shards import read_shard
from shardmill.shards.ustar import TarWriter
from shardmill.stages.samples import Children, Component, check_names
from shardmill.stages.transform import TransformStage

REPORT = "__report__/samples"
"""The key of what a transformed shard begins with on request. webdataset passes over what is in such a folder."""
_REASON = 80
"""Characters of a reason that stand in a header."""
_AHEAD_BYTES = 32 << 20
"""Bytes of a shard's samples that wait for threads, or for being written."""


@dataclass
class ShardCounts:
    """What became of a shard's samples."""

    made: list[int] = field(default_factory=list)
    """How many were made of each, in order."""
    rejects: dict[int, Rejected] = field(default_factory=dict)
    """Why a sample was rejected, by its place in the shard."""

    def headers(self) -> dict[str, str]:
        """Counts, for the response."""
        reasons = Counter(reject.reason[:_REASON] for reject in self.rejects.values())
        counts = {
            "samples-in": len(self.made),
            "samples": sum(self.made),
            "filtered": self.made.count(0) - len(self.rejects),
            "rejected": len(self.rejects),
        }
        headers = {f"shardmill-{name}": str(count) for name, count in counts.items()}
        return headers | ({"shardmill-reasons": json.dumps(dict(reasons.most_common(20)))} if reasons else {})

    def report(self) -> bytes:
        """A member of a tar: how many samples were made of each, and the rejects."""
        rejects = {
            number: {"reason": reject.reason, "detail": reject.detail, "may_pass": reject.may_pass}
            for number, reject in self.rejects.items()
        }
        tar = BytesIO()
        TarWriter(tar).write(REPORT, "json", json.dumps({"made": self.made, "rejects": rejects}).encode())
        return tar.getvalue()


class ServedTransform:
    """A dataset's transform. Threads share it."""

    def __init__(self, dataset: Dataset, transform: str | None = None) -> None:
        """`transform` names one of several.

        Raises:
            ConfigurationError: There is no such transform, or several; or it cannot be built.
        """
        self._stage = _chosen(dataset, transform).resolve(dataset.storage)
        self.at = lru_cache(maxsize=16)(self._at)

    def _at(self, epoch: int | None) -> tuple[TransformStage, str]:
        """The stage for an epoch, by default that of the dataset file, and the digest of what it does."""
        if epoch is None or epoch == self._stage.spec.epoch:
            return self._stage, self._stage.identity()
        spec = self._stage.spec.model_copy(update={"epoch": epoch})
        stage = replace(self._stage, spec=spec, _resolved=None)
        return stage, stage.identity()

    def etag(self, epoch: int | None, sha256: str, *what: str) -> str:
        """Of the result for an input with this digest. `what` is all else that it depends on."""
        _, identity = self.at(epoch)
        return f'"{hashlib.sha256(json.dumps([identity, sha256, *what]).encode()).hexdigest()[:32]}"'

    def component(self, epoch: int | None, named: Named, data: bytes, where: str) -> Component:
        """What is made of a sample of one component.

        Raises:
            Refusal: The sample is rejected, or the result is not one component.
        """
        stage, _ = self.at(epoch)
        with _speaking_for(where):
            try:
                if image_format(named.component) is not None:  # no packing has looked at it
                    verify_image(data, named.component, stage.max_pixels)
                children = stage.children(EncodedSample(named.key, {named.component: data}), where)
            except Rejected as rejected:
                raise Refusal(422, rejected.reason, rejected.detail, key=named.key) from rejected
            for key, components in children:
                check_names(key, components, ())
        if not children:
            raise Refusal(422, "filtered", "the transform leaves this sample out", key=named.key)
        if len(children) > 1:
            what = f"the transform makes {len(children)} samples of it: send it in a shard (.tar)"
            raise Refusal(422, "several samples", what, key=named.key)
        components = children[0][1]
        same = [each for each in components if each.name == named.component]
        found = same or components
        if len(found) > 1:
            what = f"the transform makes {', '.join(each.name for each in found)} of it: send it in a shard (.tar)"
            raise Refusal(422, "several components", what, key=named.key)
        return found[0]

    def shard(
        self,
        epoch: int | None,
        stream: BinaryIO,
        spool: Spool,
        executor: Executor,
        most: int,
        where: str,
        is_given_up: Callable[[], bool] = lambda: False,
    ) -> ShardCounts:
        """Write the tar that the offline stage stores for a shard's samples into `spool`, but for its rejects.

        The threads of `executor` transform the samples, `most` of them at once.

        Raises:
            Refusal: `stream` is no whole shard, or there is no room for the result; or nobody waits for it.
        """
        stage, _ = self.at(epoch)
        counts, keys = ShardCounts(), set[str]()
        tar = TarWriter(spool)  # type: ignore[arg-type]

        def make(sample: EncodedSample) -> Children | Rejected:
            try:
                return stage.children(sample, where)
            except Rejected as rejected:
                return rejected

        with _speaking_for(where):
            for children in in_order(executor, make, read_shard(stream, where), most):
                if len(counts.made) == SHARD_SAMPLES:
                    raise Refusal(413, "too large", f"a shard has at most {SHARD_SAMPLES:,} samples")
                if is_given_up():
                    raise Refusal(499, "given up")
                if isinstance(children, Rejected):
                    counts.rejects[len(counts.made)] = children
                    counts.made.append(0)
                    continue
                for key, components in children:
                    check_names(key, components, keys)
                    keys.add(key)
                    for name, data, _ in components:
                        tar.write(key, name, data)
                counts.made.append(len(children))
            tar.close()
        return counts


def _chosen(dataset: Dataset, transform: str | None) -> TransformStage:
    stages = {asset.name: asset.stage for asset in build_graph(dataset.spec)}
    transforms = {
        suffix.removeprefix("_"): stages[f"transformed_shards{suffix}"] for suffix in dataset.spec.all_transforms
    }
    if not transforms:
        raise ConfigurationError(
            f"{dataset.spec.name} declares no transform: give it `transform`, there is none to serve"
        )
    if transform is None and len(transforms) > 1:
        raise ConfigurationError(f"{dataset.spec.name} has several transforms: name one of {', '.join(transforms)}")
    name = next(iter(transforms)) if transform is None else transform
    if name not in transforms:
        there = ", ".join(filter(None, transforms)) or "one without a name"
        raise ConfigurationError(f"{dataset.spec.name} has no transform {name!r}; there is {there}")
    stage = transforms[name]
    assert isinstance(stage, TransformStage)
    return stage


@contextmanager
def _speaking_for(where: str) -> Iterator[None]:
    """Errors that an answer can tell of as refusals."""
    try:
        yield
    except CorruptionError as error:
        raise Refusal(400, "no shard", str(error)) from error
    except ConfigurationError as error:
        raise Refusal(500, "transform failed", f"{where}: {error}") from error
    except SampleError as error:
        if lacks_memory(error):
            raise full("the server lacks memory") from error
        raise Refusal(500, "transform failed", str(error)) from error


def in_order(
    executor: Executor, make: Callable[[EncodedSample], Any], samples: Iterable[EncodedSample], most: int
) -> Iterator[Any]:
    """What is made of each, in order, by threads that others use, too; a few are read ahead."""
    pending: deque[tuple[Future[Any], int]] = deque()
    ahead = 0
    try:
        for sample in samples:
            size = sum(map(len, sample.components.values()))
            while pending and (len(pending) >= most or ahead + size > _AHEAD_BYTES):
                future, taken = pending.popleft()
                ahead -= taken
                yield future.result()
            pending.append((executor.submit(make, sample), size))
            ahead += size
        while pending:
            yield pending.popleft()[0].result()
    finally:
        for future, _ in pending:
            future.cancel()
        wait([future for future, _ in pending])
