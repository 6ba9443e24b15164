"""Worker processes of a loader: the same batches, whole errors, and nothing that stays behind."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from shardmill import Loader, Mixture
from shardmill.errors import ConfigurationError, EngineError, Rejected
from shardmill.torchvision_compat import import_torchvision
from tests.shardmill.loading.stand_ins import Several, Spelled, handed_out, keys, stream
from tests.shardmill.loading.test_loader import InTurn, children

SIZES = (7, 30, 1, 0, 12, 25)


class DisagreeableError(Exception):
    """Does not pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)
        self.two = two


class Fails(Spelled):
    """Fails on one sample, as its key says."""

    def __call__(self, sample, cells, epoch, url="") -> list[dict[str, Any]]:
        if sample.key == "0/5":
            raise KeyError("of the user's own")
        if sample.key == "1/5":
            raise DisagreeableError("one", "two")
        return super().__call__(sample, cells, epoch, url)


class Tells(Spelled):
    """Says which process it is in, and how that was started."""

    def __call__(self, sample, cells, epoch, url="") -> list[dict[str, Any]]:
        import multiprocessing

        [made] = super().__call__(sample, cells, epoch, url)
        told = {"pid": os.getpid(), "parent": os.getppid(), "threads": threading.active_count()}
        return [{**made, **told, "set": os.environ.get("SET_LATE"), "method": str(multiprocessing.current_process())}]


class Pictures(Spelled):
    """Images of several sizes."""

    decode = True

    def __call__(self, sample, cells, epoch, url="") -> list[dict[str, Any]]:
        number = int(sample.key.rpartition("/")[2])
        pixels = torch.full((3, 2 + number, 5), number, dtype=torch.uint8)
        return [{"__key__": sample.key, "jpg": import_torchvision().tv_tensors.Image(pixels), "cls": number}]


def workers_now() -> set[int]:
    """Processes that a fork server of this process has started and that are alive."""
    found = set()
    for server in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "multiprocessing.forkserver" not in " ".join(server.cmdline()):
                continue  # another test's: an S3 server, say
        for worker in server.children():
            with suppress(psutil.NoSuchProcess):
                if worker.status() != psutil.STATUS_ZOMBIE:
                    found.add(worker.pid)
    return found


@pytest.fixture(autouse=True)
def nothing_stays() -> Any:
    threads = threading.active_count()
    yield
    assert workers_now() == set()
    assert threading.active_count() <= threads


def test_workers_give_what_their_lanes_give_in_turn_and_go_on_with_other_ones() -> None:
    several = {"1/4": 3, "4/1": 0, "5/24": 2}
    read = stream(*SIZES, prepare=Several(several), shuffle=True, buffer=9)
    whole = handed_out(InTurn(read, 3, lanes=2))
    loader = Loader(read, 3, workers=2)
    assert handed_out(loader) == whole
    loader.set_epoch(0)
    first = handed_out(islice(loader, 5))
    assert first == whole[:15]  # more has been read ahead
    state = json.loads(json.dumps(loader.state_dict()))
    again = Loader(read, 3, workers=2)
    again.load_state_dict(state)
    assert first + handed_out(again) == whole
    alone = Loader(read, 5)
    alone.load_state_dict(state)
    assert sorted(first + handed_out(alone)) == sorted(n for key in keys(*SIZES) for n in children(key, several))


def test_images_of_several_sizes_come_by_one_file_descriptor() -> None:
    [batch] = Loader(stream(40, prepare=Pictures()), 40, workers=1)
    assert [(tuple(image.shape), int(image.max())) for image in batch["jpg"]] == [((3, 2 + n, 5), n) for n in range(40)]
    assert {type(image).__name__ for image in batch["jpg"]} == {"Image"}
    assert len({image.untyped_storage().data_ptr() for image in batch["jpg"]}) == 1


def test_workers_come_from_a_fork_server_with_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    list(Loader(stream(3), 1, workers=1))
    monkeypatch.setenv("SET_LATE", "yes")
    batches = list(Loader(Mixture([stream(40, prepare=Tells()), stream(3, prepare=Tells())]), 2, workers=2))
    pids = {int(pid) for batch in batches for pid in batch["pid"]}
    assert len(pids) == 2
    assert os.getpid() not in {int(parent) for batch in batches for parent in batch["parent"]}
    assert {value for batch in batches for value in batch["set"]} == {"yes"}


def test_an_error_of_a_worker_is_what_it_was_with_the_place_where_it_was_raised() -> None:
    loader = Loader(stream(9, prepare=Fails()), 2, workers=1)
    with pytest.raises(KeyError, match="of the user's own") as raised:
        list(loader)
    named, remote = raised.value.__notes__
    assert named == "It was raised for the sample '0/5' of 0."
    assert "In worker 0 of the loader:" in remote
    assert "in __call__" in remote
    with pytest.raises((DisagreeableError, RuntimeError), match="DisagreeableError: one"):
        list(Loader(stream(0, 9, prepare=Fails()), 2, workers=1))


def test_a_bad_sample_in_a_worker_is_named() -> None:
    loader = Loader(stream(9, prepare=Spelled(rejected=frozenset(["0/5"]))), 2, workers=1)
    with pytest.raises(Rejected, match="'0/5' of 0") as raised:
        list(loader)
    assert raised.value.reason == "broken image"


def test_a_loop_that_is_left_leaves_no_process_and_no_thread() -> None:
    loader = Loader(stream(1000), 2, workers=2)
    for _ in loader:
        assert len(workers_now()) == 2
        break
    assert workers_now() == set()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in loader:
            raise ZeroDivisionError
    held = iter(loader)
    next(held)
    next(iter(loader))  # ends the one before
    with pytest.raises(ConfigurationError, match="another loop over it began"):
        next(held)
    assert handed_out(islice(loader, 3)) == ["0/0", "0/1", "0/500", "0/501", "0/2", "0/3"]


def test_a_worker_that_is_killed_is_an_error_that_says_so() -> None:
    loader = Loader(stream(100_000), 2, workers=2)
    with pytest.raises(  # noqa: PT012
        EngineError, match=r"a worker process of the loader died.*memory"
    ):
        for _ in loader:
            for pid in workers_now():
                os.kill(pid, signal.SIGKILL)


UNGUARDED = """
from shardmill import Loader
from tests.shardmill.loading.stand_ins import stream

for batch in Loader(stream(10), 2, workers=1, pin_memory=True):
    print(batch["__key__"])
"""


def test_a_script_that_workers_cannot_import_is_told_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for arguments, given, expected in (
        ([str(script)], None, ['put what it does under `if __name__ == "__main__":`', "EngineError: a worker process"]),
        (["-"], UNGUARDED, ["ConfigurationError: worker processes import the script, and <stdin> is no file"]),
    ):
        done = subprocess.run(
            [sys.executable, *arguments], input=given, capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 1
        assert all(words in done.stderr for words in expected), done.stderr
        assert "freeze_support" not in done.stderr
        assert "UserWarning" not in done.stderr


INTERRUPTED = """
import sys
from shardmill import Loader
from tests.shardmill.loading.stand_ins import stream
from tests.shardmill.loading.test_workers import workers_now

if __name__ == "__main__":
    loader = Loader(stream(10_000_000), 2, workers=2)
    try:
        for number, batch in enumerate(loader):
            if number == 3:
                print(*workers_now(), flush=True)
    except KeyboardInterrupt:
        print("left", loader.state_dict()["batches"] > 3, workers_now(), flush=True)
        if sys.argv[1] == "raise":
            raise
"""


@pytest.mark.parametrize("ending", ["interrupted", "killed"])
def test_ctrl_c_and_a_kill_leave_no_worker(tmp_path: Path, ending: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(INTERRUPTED)
    train = subprocess.Popen(
        [sys.executable, str(script), "swallow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", str(Path(__file__).parents[3])])},
    )
    assert train.stdout is not None
    pids = [int(pid) for pid in train.stdout.readline().split()]
    assert len(pids) == 2
    workers = [psutil.Process(pid) for pid in pids]
    if ending == "interrupted":
        os.killpg(train.pid, signal.SIGINT)  # as a terminal does: to all of them
        said, errors = train.communicate(timeout=60)
        assert said == "left True set()\n", errors
        assert "Traceback" not in errors, errors
    else:
        train.kill()
        train.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_a_loader_of_torchdatas_goes_on_with_workers() -> None:
    def loader(read: Any, **more: Any) -> StatefulDataLoader:
        return StatefulDataLoader(
            read, batch_size=4, collate_fn=list, num_workers=2, multiprocessing_context="forkserver", **more
        )

    read = stream(7, 30, 12, shuffle=True, buffer=10)
    whole = list(loader(read))
    assert sorted(sample["__key__"] for batch in whole for sample in batch) == sorted(keys(7, 30, 12))
    one = loader(read)
    iterator = iter(one)
    first = [next(iterator) for _ in range(5)]
    state = one.state_dict()
    del iterator, one
    again = loader(read)
    again.load_state_dict(state)
    assert first + list(again) == whole
    stays = loader(stream(9), persistent_workers=True)
    for epoch in (0, 5):
        stays.dataset.set_epoch(epoch)
        assert {sample["epoch"] for batch in stays for sample in batch} == {epoch}


DISTRIBUTED = """
import sys
import torch.distributed as dist
from shardmill import Loader
from tests.shardmill.loading.stand_ins import handed_out, stream

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
loader = Loader(stream(11, 10, shuffle=True), 4, equal=True)
batches = list(loader)
states = [None, None]
dist.all_gather_object(states, loader.state_dict())
loader.load_state_dict(states)
print(len(batches), len(loader), loader.padded, *handed_out(batches))
dist.destroy_process_group()
"""


def test_ranks_are_those_of_torch_distributed(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", DISTRIBUTED, str(tmp_path / "meet"), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    assert [each[:2] for each in said] == [["3", "3"]] * 2
    assert sum(int(each[2]) for each in said) == 1
    assert {key for each in said for key in each[3:]} == set(keys(11, 10))
