"""A dataset that changes, and instruments that count what each change costs."""

import io
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest
from PIL import Image

from shardmill import graph
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.embedders.runtimes.torch_cpu import TorchRuntime
from shardmill.engines import LocalEngine
from shardmill.progress import Progress
from shardmill.shards.layout import SIDE
from shardmill.shards.reader import ShardSet
from shardmill.storage import Storage
from shardmill.transforms import SampleTransform
from tests.servers.places import Place

Files = Mapping[str, bytes]


def photograph(number: int, kind: str = "JPEG") -> bytes:
    """An image of 24 pixels, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


class Cost(NamedTuple):
    """What a run did."""

    embedded: int
    """Images that the model saw."""
    transformed: int
    fetched: int
    """Objects of the source."""


VERBS = ("list", "stat", "open", "read", "read_range", "publish", "replace", "copy", "move", "delete")
"""Of a storage; `read_version` beside them."""


class Instruments:
    """Counts calls in this process, and breaks one if asked. `counting` is a fixture that installs them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._left = 0
        self._act: Callable[[], NoReturn] | None = None
        self._for_good = False
        self.source = ""
        """Begins the URIs of raw objects."""
        self._count(patch, TorchRuntime, "infer", lambda _: True)
        self._count(patch, SampleTransform, "__call__", lambda _: True)
        self._count(patch, Storage, "read_version", lambda uri: uri.startswith(self.source))
        for verb in VERBS:
            self._count(patch, Storage, verb, lambda _: False)

    def taken(self) -> Cost:
        """What was counted since this was asked last."""
        calls, self._calls = self._calls, Counter()
        return Cost(calls["infer"], calls["__call__"], calls["read_version"])

    def break_at(self, call: int, act: Callable[[], NoReturn], for_good: bool = False) -> None:
        """Do this in the place of a call, and of all that follow if it is `for_good`.

        A call is one to a verb of a store, the transform, the model, or who watches progress.
        """
        self._left, self._act, self._for_good = call, act, for_good

    def mend(self) -> None:
        """Break nothing from now on."""
        self._act = None

    @property
    def is_broken(self) -> bool:
        """Whether a call was broken since that was asked for."""
        return self._left <= 0

    def watch(self, progress: Progress) -> None:
        """Be told of progress: the end of each task is a call."""
        if progress.done == progress.total:
            self._called()

    def _called(self) -> None:
        with self._lock:
            self._left -= 1
            act = self._act if self._left == 0 or (self._left < 0 and self._for_good) else None
        if act is not None:
            act()

    def _count(self, patch: pytest.MonkeyPatch, owner: type, name: str, counts: Callable[[Any], bool]) -> None:
        real = getattr(owner, name)

        def counted(this: Any, argument: Any, *others: Any, **named: Any) -> Any:
            with self._lock:
                self._calls[name] += counts(argument)
            self._called()
            return real(this, argument, *others, **named)

        patch.setattr(owner, name, counted)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Instruments:
    return Instruments(monkeypatch)


@dataclass
class Changing:
    """A dataset of one partition over `place`/raw, stored beside it, and made in this process."""

    place: Place
    instruments: Instruments
    fields: dict[str, Any]
    """Of the dataset file."""
    partitions: list[str] = field(default_factory=lambda: ["p"])
    source: str = "raw"
    last: str = ""
    """The asset that runs end with, if not with all."""

    def __post_init__(self) -> None:
        self.instruments.source = f"{self.place.uri}/raw"

    def dataset(self, root: str = "root") -> Dataset:
        """As it is declared now."""
        source = f"{self.place.uri}/{self.source}/{{partition}}"
        given = {"name": "d", "root": f"{self.place.uri}/{root}", "source": {"uri": source}}
        fields = {name: value for name, value in self.fields.items() if name != "source"}
        given["source"] = {**given["source"], **self.fields.get("source", {})}  # type: ignore[dict-item]
        return Dataset(
            DatasetSpec.model_validate({**given, "partitions": self.partitions, **fields}), self.place.storage
        )

    def put(self, name: str, data: bytes, partition: str = "p") -> None:
        """Store a raw object, at a version that it never had."""
        uri = self.place.put(f"{self.source}/{partition}/{name}", data)
        if self.place.kind == "file":  # an equal file written within a tick of the clock would have an equal version
            file = uri.removeprefix("file://")
            os.utime(file, ns=(next(_TICKS), next(_TICKS)))

    def delete(self, name: str) -> None:
        """Remove a raw object."""
        self.place.storage.delete(f"{self.place.uri}/{self.source}/p/{name}")

    def run(self, root: str = "root") -> tuple[Cost, dict[tuple[str, str], ShardSet]]:
        """Bring all partitions up to date: what it cost, and what stands."""
        self.instruments.taken()
        made = {}
        planner = graph.Planner(self.dataset(root))
        with LocalEngine(1) as engine:
            for partition in self.partitions:
                for asset, shards in graph.run(planner, partition, engine, self.instruments.watch):
                    made[asset, partition] = shards
                    if asset == self.last:
                        break
        return self.instruments.taken(), made

    def files(self, root: str = "root") -> Files:
        """Every file of the samples' assets but the commits, which say when and how things were made.

        The manifest has times, which count for nothing; the map's basis is that of the first partitions, and stays.
        """
        found = {}
        base = f"{self.place.uri}/{root}/d"
        for info in self.place.storage.list(base):
            name = info.uri.removeprefix(f"{base}/")
            place = name.removeprefix(f"{SIDE}/").split("/")
            other = place[0].startswith(("raw_images", "embedding_map", "embedding_basis"))
            if place[1] in self.partitions and not other and place[-1] != "index.json":
                found[name] = self.place.storage.read(info.uri)
        return found

    def files_from_nothing(self) -> Files:
        """The same dataset, made elsewhere in one go."""
        root = uuid.uuid4().hex
        self.run(root)
        return self.files(root)


def _ticks() -> Iterator[int]:
    now = 1_700_000_000 * 10**9
    while True:
        now += 10**9
        yield now


_TICKS = _ticks()
