"""Beam's engine: on the DirectRunner in this process and in processes of its own, and on a runner that tries again."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

import pytest
from pydantic import SecretStr

from shardmill import graph
from shardmill.dataset import Dataset, DatasetSpec
from shardmill.engines import LocalEngine, beam, beam_worker, choose_engine, packages
from shardmill.engines.answers import Answer, Answers
from shardmill.engines.beam import BeamEngine
from shardmill.engines.making import MakeShard, PlannedShard
from shardmill.errors import ConfigurationError, ConflictError, EngineError, StorageError, SupersededError
from shardmill.graph import LazyShardSet
from shardmill.progress import Progress, ProgressMeter
from shardmill.shards.layout import Layout
from shardmill.shards.retention import remove_orphans
from shardmill.stages.stage import shard_fingerprint
from shardmill.storage import S3Credentials, Storage
from tests.servers.places import NewPlace
from tests.servers.processes import free_ports

STAGE = """
    import json, os, time
    from dataclasses import dataclass
    from pathlib import Path
    from shardmill.devices import GPUSpec
    from shardmill.errors import ConfigurationError, SupersededError
    from shardmill.shards.index import IndexWriter
    from shardmill.shards.report import ShardReport
    from shardmill.stages.stage import OutputFiles, Resources, Stage

    @dataclass(frozen=True)
    class Number:
        id: str
        start = ""
        samples = 3
        size = 1

        def identity(self):
            return self.id

    @dataclass(frozen=True)
    class Record(Stage):
        log: str  # a folder
        error: str = ""  # raised for the shard 000001; behind a number, so many times
        gpu: GPUSpec | None = None
        memory: int = 0
        name = "record"
        suffix = "tar"

        @property
        def resources(self):
            return Resources(gpus=self.gpu, memory=self.memory)

        def __call__(self, shard, work):
            log = Path(self.log, f"{shard.id}-{time.monotonic_ns()}")
            use = {"pid": os.getpid(), "threads": work.threads, "device": os.environ.get("CUDA_VISIBLE_DEVICES")}
            log.write_text(json.dumps(use))
            tries = len(list(Path(self.log).glob("000001-*")))
            kind, _, times = self.error.partition(" ")
            if kind and shard.id == "000001" and tries <= int(times or 99):
                raise {"final": ConfigurationError, "again": SupersededError, "passing": ValueError}[kind]("it failed")
            for _ in range(shard.samples):
                work.advance(1)
            return OutputFiles(None, IndexWriter()), ShardReport(samples_in=3, kept=0, filtered=3, samples=0)
"""


WORDS = ("beam", "beam://PortableRunner?job_endpoint=embed&environment_type=LOOPBACK")
"""The DirectRunner, and what Flink, Spark and Prism are spoken to by, with a job service that comes with Beam."""


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(beam_worker, "_LOOK_EVERY", 0.0)


@pytest.fixture
def stage(write_module: Callable[[str], str]) -> Any:
    return import_module(write_module(STAGE))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def write(stage: Any, tmp_path: Path, log: Path) -> Callable[..., Any]:
    """`write(engine, shards=3, error=…)`: make and commit so many shards; the stage logs each that it makes."""

    def run(engine: Any, shards: int = 3, progress: Any = lambda _: None, **fields: Any) -> Any:
        lazy = LazyShardSet(stage.Record(str(log), **fields), [stage.Number(f"{n:06x}") for n in range(shards)])
        return lazy.write(Storage(), f"file://{tmp_path}/d/record/p", "d/record/p", engine, progress=progress)

    return run


def uses(log: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(log.iterdir())]


def left(tmp_path: Path) -> list[Path]:
    """What is left of runs."""
    return [path for path in (tmp_path / "d/_shardmill/record/p").glob("runs/*") if path.is_file()]


def test_the_chain_gives_the_files_of_the_local_engine(
    tmp_path: Path, images: Any, make_dataset: Any, snapshot: Any
) -> None:
    keys = images(tmp_path / "raw", 40)
    (tmp_path / "raw" / f"{keys[5]}.jpg").write_bytes(b"no JPEG")
    made = []
    for name in ("local", "beam"):
        dataset = make_dataset(tmp_path / "raw", tmp_path / name, max_reject_ratio=0.1)
        for _ in graph.run(dataset, "p", choose_engine(name, 2)):
            pass
        made.append({file: digest for file, (digest, _) in snapshot(tmp_path / name).items()})
    local, ours = made
    assert ours.keys() == local.keys()
    differ = [file for file in ours if ours[file] != local[file] and not file.endswith("index.json")]
    assert differ == []  # index.json says how long each shard took


def test_from_bucket_to_bucket_it_gives_the_bytes_of_the_local_engine(
    tmp_path: Path, images: Any, place: NewPlace, embedder_of_tests: dict[str, str]
) -> None:
    images(tmp_path / "raw", 24)
    source = place("s3")
    source.fill(tmp_path / "raw")
    operations = [{"operation": "CenterCrop", "arguments": {"size": 48}}]
    fields = {"name": "d", "partitions": ["p"], "shards": {"max_samples": 8}, "transform": {"operations": operations}}
    fields["embedder"] = embedder_of_tests
    digests = []
    for name in ("local", "beam"):
        root = place("s3")
        spec = DatasetSpec.model_validate({**fields, "source": {"uri": source.uri}, "root": root.uri})
        dataset = Dataset(spec, Storage((*source.credentials, *root.credentials)))
        made = dict(graph.run(dataset, "p", choose_engine(name, 2)))
        digests.append(
            {
                asset: [(entry.data, entry.sha256, entry.index_sha256) for entry in shards.commit.shardlist]
                for asset, shards in made.items()
            }
        )
        assert not [info.uri for info in dataset.storage.list(dataset.home) if "/runs/" in info.uri]
    assert digests[0] == digests[1]
    assert len(digests[1]["transformed_shards"]) == len(digests[1]["embeddings"]) > 1


def test_worker_processes_share_the_threads_and_have_a_device_each(
    write: Callable[..., Any], log: Path, simulate: Any, stage: Any
) -> None:
    uuids = simulate(2)
    engine = choose_engine("beam://DirectRunner?direct_running_mode=multi_processing&direct_num_workers=2", 5)
    assert write(engine, 6, gpu=stage.GPUSpec()).made == 6
    found = uses(log)
    assert {use["threads"] for use in found} == {3}
    devices = {use["pid"]: use["device"] for use in found}
    assert os.getpid() not in devices
    assert len(set(devices.values())) == len(devices)
    assert set(devices.values()) <= set(uuids)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_this_process_is_no_place_for_a_stage_on_a_device(write: Callable[..., Any], simulate: Any, stage: Any) -> None:
    simulate(1)
    with pytest.raises(EngineError, match=r"on shard 000000 .*CUDA, and this runner makes shards in the caller's"):
        write(choose_engine("beam"), gpu=stage.GPUSpec())


def test_what_the_direct_runner_cannot_make_here_is_refused_before_anything_is_done(
    stage: Any, simulate: Any, log: Path
) -> None:
    record = stage.Record(str(log), gpu=stage.GPUSpec())
    processes = "beam://DirectRunner?direct_running_mode=multi_processing"
    simulate(1)
    choose_engine(processes).check(record, "record d")
    choose_engine("beam").check(stage.Record(str(log)), "record d")
    with pytest.raises(ConfigurationError, match=r"^record d: it needs CUDA, and this runner makes shards in the cal"):
        choose_engine("beam").check(record, "record d")
    simulate(0)
    with pytest.raises(ConfigurationError, match=r"^record d needs 1 CUDA device; visible are: none"):
        choose_engine(processes).check(record, "record d")
    choose_engine("beam://DataflowRunner?project=p").check(record, "record d")


def test_entries_come_while_the_pipeline_is_at_work(
    tmp_path: Path, stage: Any, log: Path, write_module: Callable[[str], str]
) -> None:
    waits = import_module(
        write_module(
            f"""
            import time
            from pathlib import Path
            from dataclasses import dataclass
            from {stage.__name__} import Number, Record

            class Waits(Record):
                def __call__(self, shard, work):
                    while shard.id != "000000" and not Path(self.log, "first").exists():
                        time.sleep(0.01)
                    return super().__call__(shard, work)
            """
        )
    )
    make = MakeShard(waits.Waits(str(log)), Layout.at(f"file://{tmp_path}/d/record/p"))
    shards = [PlannedShard(stage.Number(f"{n:06x}"), f"{n:064x}") for n in range(2)]
    counted: list[int] = []
    came = BeamEngine().run(make, shards, Storage(), counted.append)
    assert next(came).id == "000000"
    assert counted == [3]
    (log / "first").touch()
    assert [entry.id for entry in came] == ["000001"]
    assert counted == [3, 3]


@pytest.mark.parametrize("word", WORDS)
def test_every_shard_is_made_once_and_counted(write: Callable[..., Any], tmp_path: Path, log: Path, word: str) -> None:
    seen: list[Progress] = []
    assert write(choose_engine(word), 5, seen.append).made == 5
    assert len(uses(log)) == 5
    assert seen[-1].done == seen[-1].total == 15
    assert left(tmp_path) == []


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(("error", "final"), [("final", True), ("passing", False)])
def test_an_error_names_the_shard_and_the_others_stand(
    write: Callable[..., Any], tmp_path: Path, word: str, error: str, final: bool
) -> None:
    with pytest.raises(EngineError, match=r"^record failed on shard 000001 of .*/d/record/p: .*it failed") as caught:
        write(choose_engine(word), error=error)
    assert caught.value.final is final
    assert left(tmp_path) == []
    stood = {name.name for name in (tmp_path / "d/_shardmill/record/p").glob("*.index.parquet")}
    assert any(name.startswith("000000") for name in stood)


def test_where_nothing_can_be_cleaned_up_the_error_is_still_that_of_the_shard(
    write: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that has become read-only: neither is an answer left, nor is one removed."""

    def refuse(*_: Any) -> None:
        raise StorageError("read-only")

    leave = Answers.leave
    monkeypatch.setattr(Answers, "leave", lambda its, answer: (refuse if answer.error else leave)(its, answer))
    monkeypatch.setattr(Answers, "close", refuse)
    monkeypatch.setattr(Answers, "remove", refuse)
    with pytest.raises(EngineError, match=r"000001 of .*/d/record/p: .*it failed"):
        write(BeamEngine(), 2, error="final")


def test_an_interrupt_waits_until_the_pipeline_has_ended(
    write: Callable[..., Any], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the caller waits for the pipeline's thread."""
    jobs: list[beam._Job] = []
    create = beam._Job.__init__

    def remember(job: beam._Job, pipeline: Any) -> None:
        create(job, pipeline)
        jobs.append(job)

    monkeypatch.setattr(beam._Job, "__init__", remember)
    monkeypatch.setattr(beam, "_LOOK_EVERY", 60.0)
    monkeypatch.setattr(beam, "_STOP_SECONDS", 300.0)

    def interrupt() -> None:
        while not uses(log):
            threading.Event().wait(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        write(BeamEngine(), 3000)
    assert jobs[0]._ended.is_set()
    assert len(uses(log)) < 3000


def test_where_another_run_was_first_the_caller_is_told_so(write: Callable[..., Any]) -> None:
    with pytest.raises(SupersededError, match="it failed"):
        write(BeamEngine(), error="again")


@pytest.mark.parametrize("word", WORDS)
def test_what_the_progress_sink_raises_cancels_the_pipeline(
    write: Callable[..., Any], tmp_path: Path, log: Path, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def sink(_: Any) -> None:
        raise Enough

    monkeypatch.setattr(ProgressMeter.__init__, "__defaults__", (0.0,))
    with pytest.raises(Enough):
        write(choose_engine(word), 300, sink)
    assert len(uses(log)) < 300
    assert left(tmp_path) == []


@pytest.mark.parametrize(("room", "expected"), [(1 << 20, [6]), (1.5, [1] * 6), (2.5, [2] * 3), (0.5, [])])
def test_a_large_plan_takes_several_pipelines_and_what_none_can_take_is_made_here(
    write: Callable[..., Any], stage: Any, log: Path, monkeypatch: pytest.MonkeyPatch, room: float, expected: list[int]
) -> None:
    number = stage.Number("000000")
    _, data = beam_worker.pickled(PlannedShard(number, "a" * 64))
    monkeypatch.setattr(beam, "_PIPELINE_BYTES", int(room * (len(data) + 40)))  # fingerprints shrink less
    pipelines = []
    original = BeamEngine._pipeline
    monkeypatch.setattr(BeamEngine, "_pipeline", lambda self, *a: pipelines.append(len(a[1])) or original(self, *a))
    seen: list[Progress] = []
    assert write(BeamEngine(), 6, seen.append).made == len(uses(log)) == 6
    assert pipelines == expected
    assert seen[-1].done == seen[-1].total == 18


def test_a_shard_that_stands_is_not_made_again(stage: Any, tmp_path: Path, log: Path) -> None:
    storage, layout = Storage(), Layout.at(f"file://{tmp_path}/d/record/p")
    make, number = MakeShard(stage.Record(str(log)), layout), stage.Number("000000")
    shard = PlannedShard(number, shard_fingerprint(make.stage.identity(), number))
    answers = Answers.beside(storage, layout)
    answers.open()
    made = beam_worker.MakeShards(make, answers, None, raises=True)
    for _ in range(3):
        made.process(beam_worker.pickled(shard))
    entries = [answer.entry for answer in answers.take()]
    assert len(uses(log)) == 1
    assert {entry and entry.fingerprint for entry in entries} == {shard.fingerprint}
    assert len(entries) == 3
    answers.close()
    number = stage.Number("000001")
    made.process(beam_worker.pickled(PlannedShard(number, shard_fingerprint(make.stage.identity(), number))))
    assert len(uses(log)) == 1  # nobody waits any more
    answers.remove()
    assert left(tmp_path) == []


class Retrying:
    """A stand-in for a runner of other machines: it tries each element four times, and can be cancelled."""

    def __init__(self, do: beam_worker.MakeShards, elements: Any) -> None:
        self._do = do
        self._elements = elements
        self.cancelled = threading.Event()

    def run(self) -> "Retrying":
        return self

    def cancel(self) -> None:
        self.cancelled.set()

    def wait_until_finish(self) -> str:
        for element in self._elements:
            for tries in range(4):
                if self.cancelled.is_set():
                    return "CANCELLED"
                try:
                    self._do.process(element)
                    break
                except EngineError:
                    if tries == 3:
                        raise
        return "DONE"


@pytest.fixture
def retrying(monkeypatch: pytest.MonkeyPatch) -> list[Retrying]:
    """Pipelines run on a stand-in for a runner of other machines: tries an element four times, then fails."""
    runs: list[Retrying] = []

    def pipeline(self: BeamEngine, make: MakeShard, shards: Any, answers: Answers) -> Retrying:
        runs.append(Retrying(beam_worker.MakeShards(make, answers, 1, raises=True), shards))
        return runs[-1]

    monkeypatch.setattr(BeamEngine, "_pipeline", pipeline)
    return runs


def test_a_fault_that_passes_is_the_runner_s_to_try_again(
    write: Callable[..., Any], retrying: list[Retrying], log: Path
) -> None:
    assert write(BeamEngine("PrismRunner"), error="passing 2").made == 3
    assert len(list(log.glob("000001-*"))) == 3
    assert len(list(log.iterdir())) == 5


@pytest.mark.parametrize(("error", "tries"), [("passing", 4), ("final", 1)])
def test_a_fault_that_stays_names_the_shard_once_the_runner_gives_up(
    write: Callable[..., Any], retrying: list[Retrying], log: Path, error: str, tries: int
) -> None:
    with pytest.raises(EngineError, match="record failed on shard 000001"):
        write(BeamEngine("PrismRunner"), error=error)
    assert len(list(log.glob("000001-*"))) == tries


class Broken:
    """A pipeline that is not taken, or that ends without a word."""

    def __init__(self, is_taken: bool) -> None:
        self._is_taken = is_taken

    def run(self) -> Self:
        if not self._is_taken:
            raise RuntimeError("no quota")
        return self

    def wait_until_finish(self) -> str:
        return "FAILED"


@pytest.mark.parametrize(
    ("is_taken", "said"),
    [
        (False, r"DataflowRunner did not take the pipeline of record on file:.*/p: RuntimeError: no quota"),
        (True, r"ended without 3 shards, 000000 among them: FAILED\. Finished shards are kept"),
    ],
)
def test_a_pipeline_that_comes_to_nothing_is_an_error_that_says_how_far_it_came(
    write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, is_taken: bool, said: str
) -> None:
    monkeypatch.setattr(BeamEngine, "_pipeline", lambda *_: Broken(is_taken))
    with pytest.raises(EngineError, match=said):
        write(BeamEngine("DataflowRunner"))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_job_service_that_is_not_there_is_an_error_at_once(
    write: Callable[..., Any], tmp_path: Path, log: Path, host: str
) -> None:
    endpoint = f"{host}:{free_ports(1)[0]}"
    with pytest.raises(EngineError, match=re.escape(f"cannot reach the job service at {endpoint}: ")):
        write(choose_engine(f"beam://PortableRunner?job_endpoint={endpoint}"))
    assert left(tmp_path) == []


def test_what_a_runner_lacks_is_said_in_one_line(write: Callable[..., Any], tmp_path: Path, log: Path) -> None:
    said = r"the DataflowRunner does not run with the options that it has: .*Missing required option: region\.?"
    with pytest.raises(ConfigurationError, match=said) as caught:
        write(choose_engine("beam://DataflowRunner?project=p&temp_location=gs://b/tmp"))
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []


def test_a_pipeline_nobody_waits_for_is_cancelled(
    write: Callable[..., Any], retrying: list[Retrying], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sink(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressMeter.__init__, "__defaults__", (0.0,))
    with pytest.raises(KeyboardInterrupt):
        write(BeamEngine("PrismRunner"), 200, sink)
    assert retrying[0].cancelled.is_set()
    assert len(uses(log)) < 200


def test_code_that_workers_lack_is_named(
    tmp_path: Path, stage: Any, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.at(f"file://{tmp_path}/d/record/p")
    answers = Answers.beside(Storage(), layout)
    answers.open()
    made = beam_worker.MakeShards(MakeShard(stage.Record(str(log)), layout), answers, 1, raises=True)
    planned = beam_worker.pickled(PlannedShard(stage.Number("000000"), "0" * 64))
    monkeypatch.setitem(sys.modules, stage.__name__, None)
    made.process(planned)
    [answer] = answers.take()
    assert answer.final
    assert "shard 000000" in answer.error
    assert "install the same Shardmill, and the code" in answer.error


def test_other_packages_where_workers_run_are_an_error_that_names_them(
    write: Callable[..., Any], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_worker, "compared_versions", lambda: {**packages.compared_versions(), "pillow": "1.0"})
    with pytest.raises(EngineError, match=r"shard 00000\d .*other packages .*pillow [\d.]+, not 1\.0") as e:
        write(choose_engine("beam"))
    assert e.value.final
    assert uses(log) == []


def test_a_secret_that_would_be_stored_with_the_pipeline_is_refused(stage: Any, tmp_path: Path, log: Path) -> None:
    secret = SecretStr("a secret of the tests alone")
    storage = Storage((S3Credentials(prefix="s3://b", access_key_id="k", secret_access_key=secret),))
    make = MakeShard(stage.Record(str(log)), Layout.at(f"file://{tmp_path}/d/record/p"))
    shards = [PlannedShard(stage.Number("000000"), "0" * 64)]
    with pytest.raises(ConfigurationError, match="credentials for s3://b hold secret_access_key itself") as caught:
        next(BeamEngine("DataflowRunner").run(make, shards, storage, lambda _: None))
    assert "secret of the tests" not in str(caught.value)
    assert next(BeamEngine().run(make, shards, storage, lambda _: None)).id == "000000"


@pytest.mark.parametrize("kind", [EngineError, ConflictError, SupersededError])
def test_errors_pass_through_an_answer_whole(kind: type[EngineError | ConflictError]) -> None:
    answer = Answer.model_validate_json(Answer.of_error("000000", kind("wörds")).model_dump_json())
    assert (type(answer.raised), str(answer.raised), answer.raised.final) == (kind, "wörds", False)
    final = Answer.of_error("000000", EngineError("words", final=True))
    assert final.raised.final


def test_what_a_worker_leaves_after_its_run_is_an_orphan(tmp_path: Path) -> None:
    layout = Layout.at(f"file://{tmp_path}/d/record/p")
    answers = Answers.beside(Storage(), layout)
    answers.leave(Answer(shard="000000", error="late", kind="EngineError"))
    assert [info.uri.startswith(answers.folder) for info in remove_orphans(Storage(), layout, 0.0)] == [True]
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("beam://Dataflow", "Beam has no runner 'Dataflow'; did you mean 'DataflowRunner'?"),
        ("beam://DataflowRunner?regoin=europe-west4", "Beam has no option 'regoin'; did you mean 'region'"),
        ("beam://DirectRunner?direct_num_workers=many", "Beam does not take the options --direct_num_workers=many: "),
        ("beam://?runner=FlinkRunner", "Beam's runner stands before the question mark: beam://FlinkRunner?…"),
        ("beam://PrismRunner", "the PrismRunner would download Prism: name its binary, prism_location=…"),
        ("beam://PortableRunner", "the PortableRunner needs to know its job service, job_endpoint=host"),
    ],
)
def test_what_beam_does_not_know_is_an_error(word: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose_engine(word)
    assert str(caught.value).startswith(said)


def test_options_are_beam_s_own() -> None:
    engine = choose_engine(
        "beam://DataflowRunner?temp_location=gs://b/tmp&resource_hint=accelerator=type:nvidia-l4;count:1&"
        "experiments=a&experiments=b&streaming="
    )
    assert isinstance(engine, BeamEngine)
    assert engine.runner == "DataflowRunner"
    assert engine.options == (
        "--temp_location=gs://b/tmp",
        "--resource_hint=accelerator=type:nvidia-l4;count:1",
        "--experiments=a",
        "--experiments=b",
        "--streaming",
    )


def test_without_beam_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'shardmill\[beam\]'"):
        choose_engine("beam")
    assert isinstance(choose_engine("local"), LocalEngine)


def test_beam_is_imported_when_it_is_chosen_and_leaves_logging_alone() -> None:
    code = """
        import logging, sys, shardmill.cli, shardmill.engines.beam
        print("apache_beam" in sys.modules)
        shardmill.engines.choose_engine("beam")
        print("apache_beam" in sys.modules, logging.root.handlers)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\nTrue []\n", "")


def test_the_docs_name_every_runner_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs/engines.md").read_text().partition("## Beam")[2]
    assert set(re.findall(r"\b\w+Runner\b", page)) == set(beam.RUNNERS)
    for word in re.findall(r"--engine '?(beam\S*?)'?$", page, re.MULTILINE):
        assert isinstance(choose_engine(word), BeamEngine)
