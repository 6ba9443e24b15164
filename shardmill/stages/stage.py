"""What a stage is: a picklable callable that makes one shard from one shard, on any machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

from shardmill.devices import GPUSpec
from shardmill.shards.earlier import NOTHING, Earlier
from shardmill.shards.fingerprint import fingerprint
from shardmill.shards.index import IndexWriter
from shardmill.shards.layout import Suffix
from shardmill.shards.report import ShardReport
from shardmill.storage import Storage


class InputShard(Protocol):
    """What a stage reads: raw objects, a stored shard, or whole tables."""

    @property
    def id(self) -> str:
        """Six hexadecimal digits; the output has the same."""

    @property
    def start(self) -> str:
        """Where its range of positions (see `Commit.position`) begins; the output begins there too."""

    @property
    def samples(self) -> int:
        """Number of samples."""

    @property
    def size(self) -> int:
        """Bytes that are read."""

    def identity(self) -> Any:
        """Plain JSON that changes whenever the input or its lineage does; part of the fingerprint."""


@dataclass(frozen=True)
class Work:
    """What an engine lends to a stage while it makes one shard."""

    storage: Storage
    scratch: Path
    """A directory for the output files."""
    threads: int
    """How many threads the stage may keep busy."""
    advance: Callable[[int], None]
    """Called with the number of input samples that are done. An exception that it raises cancels the run."""
    earlier: Earlier = NOTHING
    """Shards that the same computation made: what they hold of the shard's samples is copied."""


@dataclass(frozen=True)
class OutputFiles:
    """Files of a finished shard, in the scratch directory."""

    data: Path | None
    """None if no sample was left."""
    index: IndexWriter
    picture: Path | None = None
    """A PNG, where the stage draws one."""


class Foreseen(NamedTuple):
    """Samples of a shard that is to be made."""

    computed: int
    """Those that are not copied."""
    changed: int
    """Those of which something else comes out than is known: new to what is made of them."""


@dataclass(frozen=True)
class Resources:
    """What a process that runs a stage needs of its machine."""

    threads: int = 4
    """Most threads that it keeps busy: the code that holds Python's lock would not feed more."""
    memory: int = 0
    """Bytes, beside the interpreter and its libraries. An engine starts no more processes than there is memory for."""
    gpus: GPUSpec | None = None
    """CUDA devices that an engine has to reserve: each process gets one to itself."""
    model: bool = False
    """Whether it holds a model: one process then runs it with all threads, in the place of several."""


InputT = TypeVar("InputT", bound=InputShard, contravariant=True)


class Stage(ABC, Generic[InputT]):
    """`(InputShard) -> (OutputFiles, ShardReport)`, a pure function of the input and of `parameters()`.

    Subclasses are picklable, most simply frozen dataclasses. One of your own is named in a dataset file's `stages` by
    its import path.
    """

    name: ClassVar[str]
    """What it does, in a word."""
    version: ClassVar[int] = 1
    """Raised by hand whenever the same input and parameters give other bytes."""
    suffix: ClassVar[Suffix]
    """Of its data files."""
    goes_by_sample: ClassVar[bool] = False
    """Whether what it makes of a sample is the same in any shard, and is copied where it stands already."""
    most_together: ClassVar[int] = 1
    """Over how many stages of its kind `together` shares work: their assets of one input are made together."""
    against_rejects: ClassVar[str] = "Check the code of the stage and what it is given"
    """What helps where it rejects too many samples."""
    imported_from: str = ""
    """The import path in the dataset file, of a stage of the user's own: two that are called alike are not the same."""
    given: Mapping[str, Any] = MappingProxyType({})
    """The parameters in the dataset file, of a stage of the user's own."""

    @property
    def resources(self) -> Resources:
        """What a process that runs it needs."""
        return Resources()

    def parameters(self) -> dict[str, Any]:
        """Plain JSON of everything but the input that determines the output: what the dataset file gives."""
        return dict(self.given)

    def declared(self) -> dict[str, Any]:
        """The parameters that the dataset file gives: known without a look at anything."""
        return self.parameters()

    def resolve(self, storage: Storage) -> Self:  # noqa: ARG002
        """The stage with what is costly found out (a digest of weights, an import): once a run, before it is planned.

        Raises:
            ConfigurationError: What the dataset file asks of it cannot work.
        """
        return self

    def is_declared(self, imported_from: str, given: Mapping[str, Any]) -> Self:
        """Itself, which remembers how a dataset file declares it."""
        for name, value in (("imported_from", imported_from), ("given", dict(given))):
            object.__setattr__(self, name, value)  # it may be a frozen dataclass
        return self

    def check(self, storage: Storage) -> None:
        """Find out, before anything is made, whether a resolved stage will work.

        Raises:
            ConfigurationError: It will not.
        """

    def check_machine(self) -> None:
        """Find out whether this machine has what it needs, where it is to run here.

        Raises:
            ConfigurationError: It has not.
        """

    def identity(self) -> str:
        """Digest of what it does to any input."""
        return stage_identity(self.name, self.version, self.parameters(), self.imported_from)

    def computation(self) -> str:
        """Digest of what it does to one sample: what was made of an equal sample by an equal computation is copied."""
        return self.identity()

    def foresee(self, shard: InputT, storage: Storage, earlier: Earlier) -> Foreseen:  # noqa: ARG002
        """What it would do, given what `earlier` holds. A stage that makes shards as a whole computes all samples."""
        return Foreseen(shard.samples, shard.samples)

    @abstractmethod
    def __call__(self, shard: InputT, work: Work, /) -> tuple[OutputFiles, ShardReport]:
        """Make the shard's files below `work.scratch`."""

    @classmethod
    def together(
        cls, stages: Sequence[Self], shard: InputT, works: Sequence[Work]
    ) -> list[tuple[OutputFiles, ShardReport]]:
        """What each of some stages makes of one shard, as it would alone; what can be shared is done once.

        `works` differ in `scratch` and `earlier`.
        """
        return [stage(shard, work) for stage, work in zip(stages, works, strict=True)]


def stage_identity(name: str, version: int, parameters: Mapping[str, Any], imported_from: str = "") -> str:
    """Digest of what the stage that these describe does to any input."""
    own = {"imported_from": imported_from} if imported_from else {}
    return fingerprint(stage=name, version=version, parameters=parameters, **own)


def shard_fingerprint(stage: str, shard: InputShard) -> str:
    """Digest of which shard it is, and of all that determines the bytes which the stage with this identity makes of it.

    Two orders may cut the same samples into shards of other names and bounds: one does not stand for the other.
    """
    return fingerprint(stage=stage, shard=[shard.id, shard.start], input=shard.identity())
