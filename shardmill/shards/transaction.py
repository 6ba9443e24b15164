"""Committing a partition: what waits is put among the data, `index.json` is replaced, what is superseded goes.

On a store with locks the three are one section. Elsewhere the precondition on `index.json` decides between runs; data
are copied and their originals wait until the commit is seen to be whole; a run removes only what it knows to be
superseded, and looks before each few files whether the commit is still the one that it knows.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shardmill.concurrency import REQUESTS_AT_ONCE, bounded_map
from shardmill.errors import ConflictError, ShardmillError, SupersededError
from shardmill.left_out import LeftOut
from shardmill.shards.commit import Commit, ShardEntry, read_commit
from shardmill.shards.layout import Layout, is_data_name
from shardmill.shards.left_out import read_left_out
from shardmill.shards.rejects import read_table, rejects_digest, rejects_of, write_table
from shardmill.shards.retention import expire, is_older, keep_commit
from shardmill.shards.standing import Listing, list_files
from shardmill.storage import Storage

_UNCLAIMED_SECONDS = 3600.0
"""Nobody takes so long between putting data in their place and committing them."""


def publish_commit(
    storage: Storage,
    layout: Layout,
    commit: Commit,
    previous: Commit | None,
    expected: str | None,
    keep_seconds: float = 0.0,
    left_out: LeftOut | None = None,
) -> Commit | None:
    """Make `commit` the state of the partition, and remove what it supersedes, or keep that for a time.

    `previous` is the commit at version `expected`; if the new one says the same, `index.json` is left untouched.
    `left_out` is what was left out of it, where something was listed. Returns the commit as it stands; None if a file
    that it names is not there, so that its shard has to be made again.

    Raises:
        ConflictError: `index.json` is no longer at version `expected`; nothing is changed.
        ShardmillError: Something else failed. What stands is the state before, or the new one, not all cleaned up.
    """
    transaction = _Transaction(storage, layout, commit, previous, expected, keep_seconds, left_out)
    with storage.exclusive(layout.side):
        return transaction.run()


@dataclass
class _Transaction:
    """One try to commit. `commit` and `version` are what stands, once it has been replaced."""

    storage: Storage
    layout: Layout
    commit: Commit
    previous: Commit | None
    version: str | None
    keep_seconds: float
    left_out: LeftOut | None

    def __post_init__(self) -> None:
        self._locked = self.storage.excludes(self.layout.side)

    def run(self) -> Commit | None:
        """Commit, as `publish_commit` says."""
        if self._version_now() != self.version:  # before anything is put among the data for nothing
            self._help_the_winner()
            raise ConflictError(f"another run committed {self.commit.name} while this one was at work")
        files = list_files(self.storage, self.layout)
        if not all(files.has(entry) for entry in self.commit.shards):
            return None
        gone = self._superseded(files)
        waiting = [entry for entry in self.commit.shards if entry.data and not self._is_in_place(entry, files)]
        if self.previous is not None and self.commit.says_the_same_as(self.previous):
            self.commit = self.previous
            if not self._put_in_place(waiting, files):
                return None
            # The run that committed may be removing them at this moment.
            gone = gone if self._locked or _is_unclaimed(files, "index.json") else []
        elif not self._replace(waiting, files, gone):
            return None
        return self._clean_up(gone, bool(waiting), files)

    # Before `index.json` is replaced.

    def _superseded(self, files: Listing) -> list[str]:
        """Names of the files that are to go: those that commits before named, and data of which nobody knows."""
        known = {*self.previous.files, *self.previous.superseded} if self.previous else set()
        unknown = {name for name in files.data if is_data_name(name) and name not in known}
        if not self._locked:
            unknown = {name for name in unknown if is_older(files.data[name], _UNCLAIMED_SECONDS)}
        candidates = (known | unknown) - self.commit.files
        # The index and the picture of data that are kept stay where they are.
        return sorted(n for n in candidates if n in files.data or (n in files.side and not self.keep_seconds))

    def _is_in_place(self, entry: ShardEntry, files: Listing) -> bool:
        """Whether a shard's data are among the data. Where they wait as well, they may have been made again."""
        name = entry.data or ""
        if name not in files.data or files.data[name].size != entry.filesize:
            return False
        if f"staged/{name}" not in files.side:
            return True
        digest = hashlib.sha256()
        with contextlib.suppress(FileNotFoundError):
            stream, _ = self.storage.open(self.layout.data(name))
            with stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest() == entry.sha256

    def _replace(self, waiting: list[ShardEntry], files: Listing, gone: list[str]) -> bool:
        """Put data in their place and replace `index.json`: both, or neither. False if a file has vanished."""
        try:
            rejects = list(rejects_of(self.storage, self.layout, self.commit.shards))
            if not self._put_in_place(waiting, files):
                self._withdraw(waiting, files)
                return False
            update = {"superseded": gone, "rejects_sha256": rejects_digest(rejects)}
            self.commit = self.commit.model_copy(update=update)
            if self.previous is not None and self.keep_seconds:
                keep_commit(self.storage, self.layout, self.previous)
            self.version = self.storage.replace(self.layout.commit, self.commit.to_json(), self.version)
        except SupersededError:  # an index was removed since it was listed
            return False
        except ConflictError:
            self._withdraw(waiting, files)
            self._help_the_winner()
            raise
        except BaseException:
            self._withdraw(waiting, files)
            raise
        return True

    def _put_in_place(self, entries: Iterable[ShardEntry], files: Listing) -> bool:
        """Put data that wait, or that were kept, among the data. False if some have vanished."""
        act = self.storage.move if self._locked else self.storage.copy

        def put(entry: ShardEntry) -> bool:
            name = entry.data or ""
            place = files.elsewhere(name) or f"staged/{name}"
            try:
                act(self.layout.beside(place), self.layout.data(name))
            except FileNotFoundError:  # a run that commits the same was faster
                info = self.storage.stat(self.layout.data(name))
                return info is not None and info.size == entry.filesize
            return True

        return all(list(bounded_map(put, entries, REQUESTS_AT_ONCE)))

    def _withdraw(self, entries: Iterable[ShardEntry], files: Listing) -> None:
        """Take back what was put among the data for a commit that did not come about, unless it is named by now.

        A run that is about to name one of them looks again after its commit; its original waits until then.
        """
        names = [entry.data or "" for entry in entries]
        named = self._named()

        def take_back(name: str) -> None:
            if name in named():
                return
            with contextlib.suppress(FileNotFoundError):
                if self._locked:
                    place = files.elsewhere(name) or f"staged/{name}"
                    self.storage.move(self.layout.data(name), self.layout.beside(place))
                elif self.storage.stat(self.layout.staged(name)) or self.storage.stat(self.layout.superseded(name)):
                    self.storage.delete(self.layout.data(name))

        for name in names:
            take_back(name)

    def _named(self) -> Callable[[], set[str]]:
        """A function that gives, at each call, the names of the files of the commit that stands."""
        version: str | None = ""
        names: set[str] = set()

        def now() -> set[str]:
            nonlocal version, names
            present = self._version_now()
            if present != version:
                commit, version = read_commit(self.storage, self.layout)
                names = commit.files if commit else set()
            return names

        return now

    # After it was replaced.

    def _clean_up(self, gone: list[str], waited: bool, files: Listing) -> Commit | None:
        """Do what follows a commit. A step that fails keeps none of the others back.

        Raises:
            ShardmillError: A step failed: the first of the failures.
        """
        failed: list[ShardmillError] = []
        try:
            self._retire(gone, failed)
            self._expire(files, failed)
            self._settle_rejects()
            self._settle_left_out()
        except ShardmillError as error:
            failed.append(error)
        whole = self._finish(waited, files, failed)
        if failed:
            raise failed[0]
        return whole

    def _retire(self, gone: Iterable[str], failed: list[ShardmillError]) -> None:
        """Remove superseded files, or move their data aside; a shard's index, which names the others, goes first."""

        def remove(name: str) -> None:
            if not is_data_name(name):
                self.storage.delete(self.layout.beside(name))
            elif not self.keep_seconds:
                self.storage.delete(self.layout.data(name))
            else:
                with contextlib.suppress(FileNotFoundError):
                    self.storage.move(self.layout.data(name), self.layout.superseded(name))

        self._while_it_stands(remove, sorted(gone, key=lambda name: (is_data_name(name), name)), failed)

    def _expire(self, files: Listing, failed: list[ShardmillError]) -> None:
        """Remove what has been kept for long enough."""
        names = expire(self.storage, self.layout, self.commit, files, self.keep_seconds)
        self._while_it_stands(lambda name: self.storage.delete(self.layout.beside(name)), names, failed)

    def _finish(self, waited: bool, files: Listing, failed: list[ShardmillError]) -> Commit | None:
        """Remove waiting copies of data that are in their place. None if, without locks, some have gone meanwhile."""
        if not self._locked and (waited or self.commit is not self.previous):
            if self._version_now() != self.version:
                return self.commit  # superseded already; its files are that commit's business
            files = list_files(self.storage, self.layout)
            if not all(files.has(e) and (e.data is None or e.data in files.data) for e in self.commit.shards):
                return None
        left = [name for name in self.commit.files if f"staged/{name}" in files.side and name in files.data]
        self._while_it_stands(lambda name: self.storage.delete(self.layout.staged(name)), left, failed)
        return self.commit

    def _while_it_stands(self, act: Callable[[str], None], names: list[str], failed: list[ShardmillError]) -> None:
        """Call `act` on each name, as long as `index.json` is this commit: a later one may name them again."""

        def try_it(name: str) -> None:
            try:
                act(name)
            except ShardmillError as error:
                failed.append(error)

        for start in range(0, len(names), REQUESTS_AT_ONCE):
            if not self._locked and self._version_now() != self.version:
                return
            for _ in bounded_map(try_it, names[start : start + REQUESTS_AT_ONCE], REQUESTS_AT_ONCE):
                pass

    def _settle_rejects(self) -> None:
        """Make the table of rejects that of the commit that stands now, if it is not: another's, or damaged.

        A run that has written the table looks at the commit again afterwards: of two runs that commit one after the
        other, the earlier cannot leave its table beside the commit of the later.
        """
        present, expected = read_table(self.storage, self.layout)
        if present is not None and rejects_digest(present) == self.commit.rejects_sha256:
            return
        while True:
            commit, version = read_commit(self.storage, self.layout)
            present, expected = read_table(self.storage, self.layout)
            if commit is None or (present is not None and rejects_digest(present) == commit.rejects_sha256):
                return
            try:
                rows = list(rejects_of(self.storage, self.layout, commit.shards))
                write_table(self.storage, self.layout, rows, expected)
            except ConflictError:  # written by another run, or superseded, and then that run writes it
                pass
            if self._version_now() == version:
                return

    def _settle_left_out(self) -> None:
        """Write the table of what was left out, as long as the commit that stands says what this one does.

        The version that is replaced is read before the commit is: a later run's table stays.
        """
        if self.left_out is None:
            return
        while True:
            present, expected = read_left_out(self.storage, self.layout)
            if present is not None and present.digest == self.commit.left_out_sha256:
                return
            if self._version_now() != self.version:
                return
            with contextlib.suppress(ConflictError):
                self.storage.replace(self.layout.left_out, self.left_out.to_bytes(), expected)

    def _help_the_winner(self) -> None:
        """Write the table of rejects for a run that died before it did; what fails there is that run's affair."""
        with contextlib.suppress(ShardmillError, FileNotFoundError):
            self._settle_rejects()

    def _version_now(self) -> str | None:
        present = self.storage.stat(self.layout.commit)
        return present.version if present else None


def _is_unclaimed(files: Listing, name: str) -> bool:
    return name in files.side and is_older(files.side[name], _UNCLAIMED_SECONDS)
