"""A stage as small as a stage can be: a letter makes a shard of one sample. For tests of what is around a stage."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from shardmill.engines import LocalEngine
from shardmill.errors import StorageError
from shardmill.graph.lazy_shard_set import LazyShardSet
from shardmill.shards.index import IndexWriter, Source
from shardmill.shards.layout import Suffix
from shardmill.shards.reader import ShardSet
from shardmill.shards.report import Reject, ShardReport
from shardmill.shards.ustar import TarWriter
from shardmill.stages.stage import OutputFiles, Stage, Work
from shardmill.storage import Storage
from tests.servers.memory import MemoryStorage

NAME = "d/webdataset_shards/p"


@dataclass(frozen=True)
class Letter:
    """An input shard of two samples; of a capital letter the second is rejected, else filtered."""

    letter: str
    edition: str = ""
    samples = 2
    size = 2

    @property
    def id(self) -> str:
        return f"{ord(self.letter):06x}"

    @property
    def start(self) -> str:
        return self.letter

    def identity(self) -> Any:
        return [self.letter, self.edition]


@dataclass(frozen=True)
class Spell(Stage[Letter]):
    """A stage; `software` changes the bytes and not the fingerprint. Rejects `may_pass`, or do not."""

    software: str = ""
    may_pass: bool = False
    empty: bool = False
    """Whether both samples of a letter are rejected."""
    name: ClassVar[str] = "pack"
    suffix: ClassVar[Suffix] = "tar"

    def parameters(self) -> dict[str, Any]:
        return {"empty": self.empty}

    def __call__(self, shard: Letter, work: Work) -> tuple[OutputFiles, ShardReport]:
        file, index = work.scratch / "data.tar", IndexWriter()
        if self.empty:
            both = [Reject(key=f"{shard.letter}{number}", reason="capital") for number in (1, 2)]
            return OutputFiles(None, index), ShardReport(samples_in=2, kept=0, samples=0, rejects=both)
        data = f"{shard.letter} {shard.edition}{self.software}".encode()
        with file.open("wb") as stream:
            tar = TarWriter(stream)
            digest = hashlib.sha256(data).hexdigest()
            offset = tar.write(shard.letter, "txt", data)
            index.add(shard.letter, "txt", offset, len(data), digest, Source("mem://x", "1", digest))
            sha256 = tar.close()
        capital = Reject(key=f"{shard.letter}2", reason="capital", may_pass=self.may_pass)
        rejects = [capital] if shard.letter.isupper() else []
        filtered = 1 - len(rejects)
        report = ShardReport(
            samples_in=2, kept=1, filtered=filtered, samples=1, bytes=tar.size, sha256=sha256, rejects=rejects
        )
        return OutputFiles(file, index), report


def spell(letters: str, software: str = "", may_pass: bool = False, edition: str = "") -> LazyShardSet:
    """A shard a letter, in the order of the alphabet. Another edition is another input."""
    shards = [Letter(letter, edition) for letter in sorted(letters)]
    return LazyShardSet(Spell(software, may_pass), shards, order="key")


def write(storage: Storage, folder: str, lazy: LazyShardSet, keep_seconds: float = 0.0) -> ShardSet:
    return lazy.write(storage, folder, NAME, LocalEngine(1), keep_seconds=keep_seconds)


def letters_of(shards: ShardSet) -> str:
    """What is spelt, read in order."""
    return "".join(sample.key for sample in shards.samples())


@dataclass(frozen=True)
class Hooked(MemoryStorage):
    """A bucket in memory, or a local folder, without locks.

    `hooks[verb]` is called once, before (or after) the verb on a matching URI.
    """

    hooks: dict[str, tuple[str, Callable[[], object]]] = field(default_factory=dict, compare=False)

    def excludes(self, _: str) -> bool:
        return False

    def exclusive(self, _: str) -> AbstractContextManager[None]:
        return nullcontext()

    def publish(self, file: Path, uri: str) -> None:
        self._call("publish", uri)
        super().publish(file, uri)
        self._call("published", uri)

    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        self._call("replace", uri)
        version = super().replace(uri, data, expected)
        self._call("replaced", uri)
        return version

    def copy(self, source: str, target: str) -> None:
        self._call("move", source)
        super().copy(source, target)
        self._call("moved", source)

    def move(self, source: str, target: str) -> None:
        self._call("move", source)
        super().move(source, target)
        self._call("moved", source)

    def delete(self, uri: str) -> None:
        self._call("delete", uri)
        super().delete(uri)

    def _call(self, verb: str, uri: str) -> None:
        if verb in self.hooks and self.hooks[verb][0] in uri:
            self.hooks.pop(verb)[1]()


class Killed(BaseException):
    """The process is gone: nothing after it happens."""


@dataclass(frozen=True)
class Mortal(MemoryStorage):
    """Dies at its request number `left`, before or after it is carried out; locks are let go of, as by the kernel.

    With `fails`, that request and those after it for a while fail instead.
    """

    left: list[int] = field(default_factory=lambda: [10**9], compare=False)
    locks: bool = True
    after: bool = False
    fails: int = 0

    def excludes(self, folder: str) -> bool:
        return self.locks and super().excludes(folder)

    def exclusive(self, folder: str) -> AbstractContextManager[None]:
        return super().exclusive(folder) if self.locks else nullcontext()

    def publish(self, file: Path, uri: str) -> None:
        self._live(lambda: super(Mortal, self).publish(file, uri))

    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        return self._live(lambda: super(Mortal, self).replace(uri, data, expected))

    def copy(self, source: str, target: str) -> None:
        self._live(lambda: super(Mortal, self).copy(source, target))

    def move(self, source: str, target: str) -> None:
        self._live(lambda: super(Mortal, self).move(source, target))

    def delete(self, uri: str) -> None:
        self._live(lambda: super(Mortal, self).delete(uri))

    def _live(self, act: Callable[[], Any]) -> Any:
        """Only what changes something counts: between two reads nothing can be told apart."""
        self.left[0] -= 1
        if self.fails:
            if -self.fails < self.left[0] <= 0:
                raise StorageError("the store is away")
            return act()
        if self.left[0] < 0:
            raise Killed
        if self.left[0] == 0 and not self.after:
            raise Killed
        done = act()
        if self.left[0] == 0:
            raise Killed
        return done
