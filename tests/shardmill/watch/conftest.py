"""A watched dataset: what a test does to its source, the looks, and the runs that they ask for."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shardmill.dataset import Dataset, DatasetSpec
from shardmill.dataset.source import read_manifest
from shardmill.engines import LocalEngine
from shardmill.sources import content_digest, content_of
from shardmill.storage import Storage
from shardmill.watch import Due, Found, look
from shardmill.watch.notifications import Notifications
from shardmill.watch.seen import Seen
from shardmill.watch.walks import Budget
from tests.servers.places import Kind, NewPlace, Place
from tests.small import make, plan

Watch = Callable[..., "Watched"]
PREFIX: dict[str, Any] = {"partitions": {"by": "prefix"}, "template": "{partition}"}


def seen(content: str = "x", newest: float = 0.0, since: float = 0.0, settled: str = "", objects: int = 1) -> Seen:
    """A partition as a watcher remembers it."""
    return Seen(content, objects, objects, newest, since, None, 1, settled)


@dataclass
class Watched:
    """A dataset, and the cursor that a sensor would keep."""

    source: Place
    dataset: Dataset
    cursor: str | None = None
    asked: list[Due] = field(default_factory=list)
    """All that was ever due."""
    queue: Notifications | None = None

    def look(
        self,
        now: float = 4e9,
        *,
        objects: int = 1_000_000,
        most: int = 1000,
        running: Collection[str] = (),
        keep: bool = True,
    ) -> Found:
        """One look; `keep=False`: it died before its cursor was kept."""
        found = look(
            self.dataset,
            self.cursor,
            lambda: running,
            most=most,
            notifications=self.queue,
            budget=Budget(3600.0, objects),
            now=lambda: now,
        )
        if keep:
            self.cursor = found.cursor
            self.asked += found.due
        return found

    def run(self, *partitions: str) -> None:
        """What a run does, as far as a watcher sees it: `raw_images` is committed."""
        for partition in partitions:
            lazy = plan(self.dataset, "raw_images", partition)
            make(self.dataset, "raw_images", partition, lazy, LocalEngine(1))

    def look_and_run(self, now: float = 4e9, **options: Any) -> list[str]:
        """A look, and the runs that it asks for. Returns the partitions."""
        due = [item.partition for item in self.look(now, **options).due]
        self.run(*due)
        return due

    def committed(self) -> dict[str, str]:
        """Partition → the content that is committed, of those that hold anything."""
        found = {}
        for partition in self.dataset.stored_partitions("raw_images"):
            stored = self.dataset.stored("raw_images", partition)
            if stored and stored.commit.total_samples_in:
                found[partition] = read_manifest(stored).content
        return found

    def there(self) -> dict[str, str]:
        """Partition → the content that the source has."""
        base = self.dataset.partitioning.base
        sums: dict[str, int] = {}
        for info in self.source.storage.list(base):
            match = self.dataset.partitioning.match(info.uri[len(base) + 1 :])
            if match:
                sums[match[0]] = sums.get(match[0], 0) + content_of(info.uri, info.version)
        return {key: content_digest(total) for key, total in sums.items()}

    def put(self, name: str, data: bytes = b"data") -> str:
        return self.source.put(name, data)

    def delete(self, name: str) -> None:
        self.source.storage.delete(f"{self.source.uri}/{name}")


@pytest.fixture
def watch(place: NewPlace, tmp_path: Path) -> Watch:
    """`watch("gs", partitions={"by": "prefix"}, template="{partition}", quiet_seconds=0)`: nothing is there yet.

    What the watcher keeps is on the local disk.
    """

    def make(
        kind: Kind = "file",
        partitions: Any = PREFIX["partitions"],
        template: str = PREFIX["template"],
        source: dict[str, Any] | None = None,
        at: Place | None = None,
        **sensor: Any,
    ) -> Watched:
        at = at or place(kind)
        spec = {
            "name": "d",
            "root": str(tmp_path / "root"),
            "source": {"uri": f"{at.uri}/{template}".rstrip("/"), **(source or {})},
            "partitions": partitions,
            "sensor": {"quiet_seconds": 0, **sensor},
        }
        return Watched(at, Dataset(DatasetSpec.model_validate(spec), Storage(at.credentials)))

    return make
