"""The engine on Apache Beam: a pipeline per run of a stage, on the runner that its address names.

    beam                                                        the DirectRunner, in this process
    beam://DataflowRunner?project=p&region=r&temp_location=…    a runner, with Beam's own options for it

A pipeline is one `ParDo` over the planned shards. Runners have no way of their own for results to come back while they
are at work, and several have none at all: workers leave `Answers` beside the shards.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import socket
import threading
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

from shardmill.concurrency import usable_cores
from shardmill.engines.answers import Answer, Answers
from shardmill.engines.making import (
    MakeShard,
    PlannedShard,
    check_that_it_travels,
    check_this_machine,
    make_one,
)
from shardmill.engines.secrets import check_that_only_names_travel
from shardmill.errors import ConfigurationError, EngineError, StorageError
from shardmill.progress import counted
from shardmill.shards.commit import ShardEntry
from shardmill.spec import did_you_mean
from shardmill.stages.stage import Stage
from shardmill.storage import Storage

if TYPE_CHECKING:
    from shardmill.engines.beam_worker import PickledShard

logger = logging.getLogger(__name__)

DIRECT = "DirectRunner"
RUNNERS = (DIRECT, "PrismRunner", "DataflowRunner", "FlinkRunner", "SparkRunner", "PortableRunner")

_LOOK_EVERY = 1.0
"""Seconds between two looks for answers."""
_REACHED_SECONDS = 10.0
"""How long a job service has to take a connection."""
_STOP_SECONDS = 10.0
"""How long a pipeline that is cancelled has to end."""
_PIPELINE_BYTES = 4 << 20
"""Of the shards of one pipeline: Dataflow takes no job of more than 10 MB, as text."""


@dataclass(frozen=True)
class BeamEngine:
    """Runs stages as pipelines of Beam. Nothing of it lasts from run to run but what the runner keeps."""

    runner: str = DIRECT
    """One of `RUNNERS`."""
    options: tuple[str, ...] = ()
    """Beam's, such as `--region=europe-west4`."""
    workers: int | None = None
    """Threads of each process that makes shards; of all, where the DirectRunner starts them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check(self, stage: Stage[Any], task: str) -> None:
        """Refuse a stage that this machine is too little for, where the DirectRunner is to make its shards.

        Of the workers of other runners nothing is known: some of their machines may be still to come.
        """
        if self._is_direct:
            check_this_machine(stage, task)
            if stage.resources.gpus is not None and not self._processes:
                from shardmill.engines.beam_worker import NOT_IN_THE_CALLER

                raise ConfigurationError(f"{task}: {NOT_IN_THE_CALLER}")

    def run(
        self, make: MakeShard, shards: Sequence[PlannedShard], storage: Storage, advance: Callable[[int], None]
    ) -> Generator[ShardEntry]:
        """Run as every `Engine` does; `advance` is told of whole shards. A plan of many MB takes several pipelines.

        A shard that no pipeline can take, a long listing say, is made here.
        """
        if not shards:
            return
        if not self._is_direct:
            check_that_only_names_travel(storage, "what the runner stores, and Beam's workers")
        check_that_it_travels(make)
        from shardmill.engines.beam_worker import pickled

        planned = {shard.id: shard for shard in shards}
        for some in _batches(map(pickled, shards)):
            shard, data = some[0]
            if len(data) > _PIPELINE_BYTES and make.stage.resources.gpus is None:
                yield make_one(make, planned[shard], storage, self.workers or usable_cores(), advance)
                continue
            with contextlib.closing(self._run(make, some, storage)) as entries:
                for entry in entries:
                    advance(planned[entry.id].samples)
                    yield entry

    def _run(self, make: MakeShard, shards: list[PickledShard], storage: Storage) -> Generator[ShardEntry]:
        missing = {shard for shard, _ in shards}
        failed: Answer | None = None
        answers = Answers.beside(storage, make.layout)
        job = _Job(self._pipeline(make, shards, answers))
        self._check_job_service()
        answers.open()
        whole = False
        try:
            job.start()
            ended = False
            while not ended:
                ended = job.has_ended(_LOOK_EVERY)
                for answer in answers.take():
                    if answer.shard not in missing:
                        continue
                    if answer.entry is not None:
                        missing.remove(answer.shard)
                        yield answer.entry
                    elif self._is_direct or answer.final or answer.is_conflict:
                        raise answer.raised
                    else:
                        failed = answer  # the runner tries again, as often as it is used to
            if failed is not None and failed.shard in missing:
                raise failed.raised
            pipeline = f"the pipeline of {make.stage.name} on {make.layout.folder}"
            if missing and not job.has_begun and not self._is_direct:
                raise EngineError(f"{self.runner} did not take {pipeline}: {job.outcome}")
            if missing:
                raise EngineError(
                    f"{pipeline} ended without {counted(len(missing), 'shard')}, {min(missing)} among them: "
                    f"{job.outcome}. Finished shards are kept: run again to go on"
                )
            whole = True
        finally:
            # A disk that is full or read-only fails here as well: what came first is what is told.
            unless_it_failed = contextlib.suppress(*(() if whole else (StorageError,)))
            with unless_it_failed:
                answers.close()
            job.end()
            with unless_it_failed:
                answers.remove()

    def _pipeline(self, make: MakeShard, shards: list[PickledShard], answers: Answers) -> Any:
        import apache_beam as beam
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        from shardmill.engines.beam_worker import MakeShards

        # The DirectRunner's own choice would be to download Prism.
        runner = FnApiRunner() if self._is_direct else self.runner
        # Of several threads of a worker all but one would wait.
        options = _options(["--number_of_worker_harness_threads=1", *self.options])
        try:
            pipeline = beam.Pipeline(runner=runner, options=options)
        except ValueError as error:
            said = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
            raise ConfigurationError(f"the {self.runner} does not run with the options that it has: {said}") from error
        each = beam.ParDo(MakeShards(make, answers, self._threads, raises=not self._is_direct))
        if memory := make.stage.resources.memory:
            each = each.with_resource_hints(min_ram=f"{memory}B")
        pipeline | "Shards" >> beam.Create(shards) | make.stage.name >> each
        return pipeline

    def _check_job_service(self) -> None:
        """Refuse one that is not there: Beam's client waits for it without a word."""
        from apache_beam.options.pipeline_options import PortableOptions

        endpoint = _options(self.options).view_as(PortableOptions).job_endpoint or ""
        host, colon, port = endpoint.rpartition(":")
        if not (colon and port.isdecimal()):
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACHED_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise EngineError(f"cannot reach the job service at {endpoint}: {error}") from error

    @property
    def _is_direct(self) -> bool:
        return self.runner == DIRECT

    @property
    def _processes(self) -> int:
        """Those that the DirectRunner starts; none where it makes shards in this one."""
        from apache_beam.options.pipeline_options import DirectOptions

        options = _options(self.options).view_as(DirectOptions)
        several = options.direct_running_mode == "multi_processing"
        return (options.direct_num_workers or usable_cores()) if several else 0

    @property
    def _threads(self) -> int | None:
        if not self._is_direct:
            return self.workers
        return math.ceil((self.workers or usable_cores()) / max(1, self._processes))


def engine_at(address: str, workers: int | None, say: Callable[[str], None]) -> BeamEngine:  # noqa: ARG001
    """The engine that `beam` or `beam://<runner>?<option>=<value>&…` asks for."""
    runner, _, query = address.partition("?")
    runner = runner or DIRECT
    if runner not in RUNNERS:
        hint = did_you_mean(runner, RUNNERS) or ";"
        raise ConfigurationError(f"Beam has no runner {runner!r}{hint} there are {', '.join(RUNNERS)}")
    given = parse_qsl(query, keep_blank_values=True)
    options = tuple(f"--{name}={value}" if value else f"--{name}" for name, value in given)
    if "runner" in dict(given):
        raise ConfigurationError(f"Beam's runner stands before the question mark: beam://{dict(given)['runner']}?…")
    _check_options(options)
    _check_place(runner, dict(given))
    return BeamEngine(runner, options, workers)


def _check_options(options: Sequence[str]) -> None:
    """Refuse options that Beam would leave out with a warning, or end the process over."""
    try:
        known = _options(()).get_all_options()
    except ImportError as error:
        raise ConfigurationError(
            f"the engine beam needs Apache Beam: pip install 'shardmill[beam]' ({error})"
        ) from error
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = _options(options).get_all_options(retain_unknown_options=True)
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise ConfigurationError(f"Beam does not take the options {' '.join(options)}: {reason}") from None
    for name in found.keys() - known.keys():
        hint = did_you_mean(name, known) or ""
        raise ConfigurationError(f"Beam has no option {name!r}{hint}")


def _check_place(runner: str, given: Container[str]) -> None:
    """Refuse a runner that has no place to run in, or would download one."""
    if runner == "PrismRunner" and "prism_location" not in given and "job_endpoint" not in given:
        raise ConfigurationError("the PrismRunner would download Prism: name its binary, prism_location=…")
    if runner == "PortableRunner" and "job_endpoint" not in given:
        raise ConfigurationError("the PortableRunner needs to know its job service, job_endpoint=host:port")


def _options(options: Sequence[str]) -> Any:
    """Beam's `PipelineOptions`, without what comes with them: a warning of what BigQuery would need, and a set-up of
    the process's logging.
    """
    root = logging.root
    handlers, level = [*root.handlers], root.level
    root.addHandler(logging.NullHandler())
    try:
        from apache_beam.options.pipeline_options import PipelineOptions

        return PipelineOptions([*options])
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _batches(shards: Iterator[PickledShard]) -> Iterator[list[PickledShard]]:
    """So many at a time as one pipeline takes."""
    batch: list[PickledShard] = []
    size = 0
    for shard in shards:
        if batch and size + len(shard[1]) > _PIPELINE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(shard)
        size += len(shard[1])
    if batch:
        yield batch


class _Job(threading.Thread):
    """A pipeline under way. Some runners hold the thread that starts one until it ends: so this one is its own."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__(name="beam pipeline", daemon=True)
        self._pipeline = pipeline
        self._result: Any = None
        self._unwanted = False
        self._ended = threading.Event()  # `join` that a Ctrl-C interrupts takes a thread for ended, until Python 3.13
        self.outcome = "it was never started"
        """What became of it."""

    def run(self) -> None:
        """Start it, and wait until it ends."""
        try:
            self._result = self._pipeline.run()
            if self._unwanted:
                self._cancel()
            self.outcome = str(self._result.wait_until_finish())
        except Exception as error:
            self.outcome = f"{type(error).__name__}: {error}"
        finally:
            self._ended.set()

    @property
    def has_begun(self) -> bool:
        """Whether the runner took it."""
        return self._result is not None

    def has_ended(self, seconds: float) -> bool:
        """Whether it has, or does within so many seconds."""
        return self._ended.wait(seconds)

    def end(self) -> None:
        """Cancel it where it runs still, and wait for its end; not for ever, as Beam does for processes that died."""
        self._unwanted = True
        if self.is_alive() and not self._ended.is_set():
            self._cancel()
            if not self._ended.wait(_STOP_SECONDS):
                logger.warning(
                    "a pipeline that was cancelled goes on after %.0f s: what it makes yet is not used",
                    _STOP_SECONDS,
                )

    def _cancel(self) -> None:
        with contextlib.suppress(NotImplementedError):  # workers notice themselves that nobody waits
            if self._result is not None:
                self._result.cancel()
