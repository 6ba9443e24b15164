"""Shard files that no index names: what runs that failed or were killed left on a store without locks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator

from shardmill.dataset import ASSETS, Dataset, suffix_of
from shardmill.shards.commit import file_names, read_commit
from shardmill.shards.layout import Layout
from shardmill.storage import ObjectInfo, join_uri, relative_to


def orphans(dataset: Dataset, grace_seconds: float) -> Iterator[ObjectInfo]:
    """Shard files of any partition, declared or not, that no index names and that are older than the grace time.

    A run that is at work publishes shards before it commits them: the grace time has to be longer than any run. The
    index is read after the listing, so that what it names by then is never among them. Raises CorruptionError for an
    index that cannot be read; nothing of its partition is an orphan then.
    """
    for asset in ASSETS:
        layout = Layout(suffix_of(asset))
        home = join_uri(dataset.home, asset)
        by_partition: dict[str, list[ObjectInfo]] = defaultdict(list)
        for info in dataset.storage.list(home):
            by_partition[relative_to(home, info.uri).partition("/")[0]].append(info)
        for partition, infos in sorted(by_partition.items()):
            folder = join_uri(home, partition)
            commit, _ = read_commit(dataset.storage, folder, layout.suffix)
            named = {name for entry in commit.shards for name in file_names(entry, layout)} if commit else set()
            for info in infos:
                name = relative_to(folder, info.uri) if info.uri.startswith(f"{folder}/") else ""
                old = time.time() - info.modified > grace_seconds
                if old and layout.is_shard_file(name) and name not in named:
                    yield info
