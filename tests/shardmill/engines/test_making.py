"""What every engine asks of a stage."""

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardmill.engines import choose_engine
from shardmill.errors import ConfigurationError
from shardmill.storage import Storage
from tests.shardmill.engines.recording import Record, begun, planned
from tests.shardmill.engines.simulated_ray import SimulatedRay


class Locked(Record):
    """Cannot be pickled."""

    def __getstate__(self) -> Any:
        return threading.Lock()


class Shy(Record):
    """Can be pickled, and no stage comes of it."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("not here")


@pytest.mark.parametrize(
    ("kind", "why"), [(Locked, "TypeError: cannot pickle '_thread.lock' object"), (Shy, "ValueError: not here")]
)
@pytest.mark.parametrize("word", ["local", "ray", "beam"])
def test_a_stage_that_cannot_be_pickled_is_refused_and_nothing_is_left(
    word: str, kind: type[Record], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if word == "beam":
        pytest.importorskip("apache_beam")
    monkeypatch.setitem(sys.modules, "ray", SimulatedRay(nodes=1, cpus=2))
    make, shards = planned(tmp_path / "log", f"file://{tmp_path}/d/record/p", 2)
    make = replace(make, stage=kind(make.stage.log))  # type: ignore[attr-defined]
    with choose_engine(word, 2) as engine, pytest.raises(ConfigurationError) as raised:
        list(engine.run(make, shards, Storage(), lambda _: None))
    assert f"the stage record of file://{tmp_path}/d/record/p cannot be handed to a worker" in str(raised.value)
    assert f"because it cannot be pickled ({why})" in str(raised.value)
    assert begun(tmp_path / "log") == []
    assert not [file for file in (tmp_path / "d").rglob("*") if file.is_file()]
