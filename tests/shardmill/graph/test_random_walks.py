"""Changes in any order, runs that break off among them: what stands is right, and no run does more than it has to."""

import io
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from PIL import Image

from shardmill import graph
from shardmill.embedders import EMBEDDERS
from shardmill.errors import ShardmillError, StorageError
from shardmill.graph.orphans import remove_orphans
from shardmill.samples import EncodedSample
from shardmill.shards.reader import ShardSet
from shardmill.shards.verify import verify
from shardmill.stages import RowStage
from tests import small_embedder
from tests.changes import Changing, Cost, Instruments, counting
from tests.conftest import Start
from tests.servers.places import NewPlace, Place
from tests.small_embedder import SMALL

__all__ = ["counting"]

SAMPLES = 24
ASSETS = ("webdataset_shards", "transformed_shards", "embeddings")
IMAGES = ("jpg", "png", "mask.png")
CROPPED = 14
"""Smaller images cannot be cropped at random."""


@dataclass(frozen=True)
class Object:
    """A raw object, as the walk knows it."""

    data: bytes
    version: int
    size: int = 0
    """Of its image, in pixels; none if it is broken, or no image."""


Group = Mapping[str, Object]
"""A sample: its objects by component."""


@dataclass(frozen=True)
class World:
    """What the source holds and what is declared: all that the results follow from. What they are is not computed:
    a value here differs wherever the result may.
    """

    source: Mapping[str, Group]
    transform: Mapping[str, Any]
    embedder: Mapping[str, Any]

    @cached_property
    def packed(self) -> Mapping[str, Group]:
        return {key: group for key, group in self.source.items() if images(group) and not is_broken(group)}

    def is_random(self) -> bool:
        return any(each["operation"].startswith("Random") for each in self.transform["operations"])

    def seen(self, group: Group) -> Mapping[str, Object]:
        """What the transform reads."""
        names = self.transform["operations"][0].get("components", IMAGES)
        return {name: group[name] for name in names if name in group}

    def is_refused(self, group: Group) -> bool:
        """Whether the transform cannot do anything with a sample."""
        sizes = {item.size for item in self.seen(group).values()}
        too_small = self.is_random() and min(sizes, default=0) < CROPPED
        torn = len(sizes) > 1 and ("mask.png" in self.transform["masks"] or self.is_random())
        return not sizes or too_small or (torn and "mask.png" in self.seen(group))

    def transformed(self, key: str, group: Group) -> Mapping[str, Any]:
        """What becomes of each component."""
        seen = self.seen(group)
        made: dict[str, Any] = {name: item.data for name, item in group.items()}
        for name in seen:
            how = (repr(self.transform["operations"]), name in self.transform["masks"])
            quality = self.transform["jpeg_quality"] if name == "jpg" else None
            draws = (self.transform["seed"], key, contents(seen)) if self.is_random() else None
            made[name] = (how, quality, draws, group[name].data)
        return made

    @cached_property
    def embedded(self) -> Mapping[str, Any]:
        """The format and bytes of each image that is embedded, by key."""
        found = {}
        raw = self.embedder["of"] == "webdataset_shards"
        masks = [] if raw else self.transform["masks"]
        for key, group in self.packed.items():
            if not raw and self.is_refused(group):
                continue
            names = [self.embedder["component"]] if self.embedder["component"] else set(images(group)) - set(masks)
            if len(names) == 1 and set(names) <= group.keys():
                (name,) = names
                made = contents(group) if raw else self.transformed(key, group)
                found[key] = (name, made[name])
        return found


NOTHING = World({}, {}, {})


def contents(group: Group) -> Mapping[str, bytes]:
    return {name: item.data for name, item in group.items()}


def images(group: Group) -> list[str]:
    return [name for name in IMAGES if name in group]


def is_broken(group: Group) -> bool:
    return any(not group[name].size for name in images(group))


def to_fetch(before: World, now: World) -> int:
    """Objects that are new, or of samples of which nothing was kept. A sample that is as it was refused stays so."""
    total = 0
    for key, group in now.source.items():
        if images(group) and group != before.source.get(key):
            kept = before.packed.get(key, {})
            total += sum(kept.get(name) != item for name, item in group.items())
    return total


def to_transform(before: World, now: World) -> int:
    """Samples whose images changed; where they are refused, anything of them."""

    def is_known(key: str, group: Group) -> bool:
        old = before.packed.get(key, {})
        same = contents(old) == contents(group)
        return same or (contents(now.seen(old)) == contents(now.seen(group)) and not now.is_refused(group))

    if before.transform != now.transform:
        return len(now.packed)
    return sum(not is_known(key, group) for key, group in now.packed.items())


def to_embed(before: World, now: World) -> int:
    """Samples whose image is another than it was."""
    where = ("of", "component")
    then, how = ({k: v for k, v in world.embedder.items() if k not in where} for world in (before, now))
    if then != how:
        return len(now.embedded)
    return sum(before.embedded.get(key) != image for key, image in now.embedded.items())


class Sizes(RowStage):
    """A table of one's own: it is copied row by row."""

    name = "sizes"

    def schema(self) -> pa.Schema:
        return pa.schema([pa.field("bytes", pa.int64(), nullable=False)])

    def row(self, sample: EncodedSample) -> dict[str, Any]:
        return {"bytes": sum(map(len, sample.components.values()))}


class Killed(BaseException):
    """As if the process were killed: nothing that it does afterwards has any effect on a store."""


@dataclass(frozen=True)
class Break:
    """Run, and be broken off at a call."""

    call: int
    how: str


CALL = st.integers(1, 160)
WHICH = st.integers(0, 63)
SOME = st.integers(1, 4)
COMPONENTS = st.sampled_from(["cls", "json", "txt", "mask.png"])
CROPS = (
    {"operation": "RandomCrop", "arguments": {"size": CROPPED}},
    {"operation": "CenterCrop", "arguments": {"size": 16}},
    {"operation": "CenterCrop", "arguments": {"size": 12}},
    {"operation": "RandomCrop", "arguments": {"size": CROPPED}, "components": ["jpg"]},
    {"operation": "CenterCrop", "arguments": {"size": 16}, "components": ["jpg"]},
)
FIELDS: Mapping[str, Mapping[str, list[Any]]] = {
    "shards": {"max_samples": [8, 4, 16], "order": ["hash", "key"]},
    "transform": {
        "operations": [[crop] for crop in CROPS],
        "seed": [0, 1, 2],
        "jpeg_quality": [95, 60, 75],
        "masks": [[], ["mask.png"]],
    },
    "embedder": {
        "dtype": ["float32", "float16"],
        "normalize": [False, True],
        "component": [None, "jpg"],
        "of": ["transformed_shards", "webdataset_shards"],
    },
    "columns": {
        "note": ["string", "list<string>"],
        "txt": ["string", "int8", "float32"],
        "cls": ["int64", "string"],
    },
}
"""What is declared: at first the first of each."""
CHANGES = st.one_of(
    st.tuples(st.just("add"), SOME, COMPONENTS),
    st.tuples(st.just("delete"), WHICH, SOME),
    st.tuples(st.just("replace"), WHICH, SOME),
    st.tuples(st.just("copy_over"), WHICH, SOME, WHICH),
    st.tuples(st.just("rename"), WHICH, SOME),
    st.tuples(st.just("touch"), WHICH, SOME),
    st.tuples(st.just("spoil"), WHICH, SOME),
    st.tuples(st.just("mend")),
    st.tuples(st.just("give"), WHICH, SOME, COMPONENTS),
    st.tuples(st.just("take"), WHICH, SOME),
    st.tuples(st.just("say"), WHICH, SOME),
    *(
        st.tuples(st.just("declare"), st.just(part), st.just(name), st.integers(1, len(values) - 1))
        for part, fields in FIELDS.items()
        for name, values in fields.items()
    ),
)
"""A method of `Walk`, and what it is called with."""
THEN = st.sampled_from(["change more", "run"]) | st.builds(Break, CALL, st.sampled_from(["store fails", "killed"]))
"""What follows some changes."""


class Walk(RuleBasedStateMachine):
    """Changes of a partition, with a run after some of them."""

    def __init__(self, changing: Changing, kill: Callable[[int], None], kills: int) -> None:
        """`kill(call)` has a process run the partition and die at a call, `kills` times at most."""
        super().__init__()
        self.changing = changing
        self.kill, self.kills = kill, kills
        self.source: dict[str, dict[str, Object]] = {}
        self.said: dict[str, str] = {}
        """Of some samples, in a table beside the source."""
        self.made_of = dict.fromkeys(ASSETS, NOTHING)
        """What was there when the last commit of each asset was made."""
        self.count = 0

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=2), then=THEN)
    def change(self, changes: list[tuple[Any, ...]], then: str | Break) -> None:
        if not self.source:
            self.add(SAMPLES, "cls")
            self.say(0, 2)
        for name, *arguments in changes:
            getattr(self, name)(*arguments)
        if then == "run":
            self._run()
        elif isinstance(then, Break):
            self._break(then)

    @precondition(lambda self: self.source and self.kills > 0)
    @rule(call=CALL)
    def run_and_be_killed(self, call: int) -> None:
        self.kills -= 1
        before = self._commits()
        self.kill(call)
        self._look_at_what_is_left(before)

    def teardown(self) -> None:
        """After a run, and after garbage was collected, there is not a file more or less than from nothing."""
        if self.source:
            self._run()
            list(remove_orphans(self.changing.dataset(), 0.0))
            assert self.changing.files() == self.changing.files_from_nothing()

    # What changes.

    def add(self, count: int, component: str) -> None:
        for _ in range(count):
            self.count += 1
            key = f"image_{self.count * 37 % 1000:03}_{self.count}"  # anywhere among the others
            name = "jpg" if self.count % 5 else "png"
            self._put(key, name, self._image(name))
            self._put(key, component, self._content(key, component))

    def delete(self, which: int, count: int) -> None:
        for key in self._some(which, count if len(self.source) > 8 else 0):
            for component in list(self.source[key]):
                self._delete(key, component)

    def replace(self, which: int, count: int) -> None:
        for key in self._some(which, count):
            for component in images(self.source[key]):
                self._put(key, component, self._image(component))

    def copy_over(self, which: int, count: int, other: int) -> None:
        """Samples get the image of another."""
        (of,) = self._some(other)
        for key in self._some(which, count):
            for component in images(self.source[key]):
                if component in self.source[of]:
                    self._put(key, component, self.source[of][component])

    def rename(self, which: int, count: int) -> None:
        for key in self._some(which, count):
            self.count += 1
            for component, item in list(self.source[key].items()):
                self._delete(key, component)
                self._put(f"image_{which:03}_{self.count}", component, item)

    def touch(self, which: int, count: int) -> None:
        for key in self._some(which, count):
            for component, item in self.source[key].items():
                self._put(key, component, item)

    def spoil(self, which: int, count: int) -> None:
        for key in self._some(which, count):
            for component in images(self.source[key]):
                self._put(key, component, Object(b"no image", 0))

    def mend(self) -> None:
        for key, group in self.source.items():
            for component in images(group):
                if not group[component].size:
                    self._put(key, component, self._image(component))

    def give(self, which: int, count: int, component: str) -> None:
        for key in self._some(which, count):
            self._put(key, component, self._content(key, component))

    def take(self, which: int, count: int) -> None:
        for key in self._some(which, count):
            if len(self.source[key]) > 1:
                self._delete(key, sorted(self.source[key])[which % len(self.source[key])])

    def say(self, which: int, count: int) -> None:
        for key in self._some(which, count):
            self.count += 1
            self.said[key] = f"said at {self.count}"
        rows = "".join(f"{key},{note}\n" for key, note in self.said.items())
        self.changing.place.put("said.csv", f"id,note\n{rows}".encode())

    def declare(self, part: str, name: str, further: int) -> None:
        """Another value of a field: that which comes so much after the one it has."""
        values, fields = FIELDS[part][name], self.changing.fields
        value = values[(values.index(fields[part][name]) + further) % len(values)]
        fields[part] = {**fields[part], name: value}

    # What is done with it.

    def _run(self) -> None:
        foreseen = {state.asset: state.to_compute for state in graph.states(self.changing.dataset(), "p")}
        cost, made = self.changing.run()
        assert foreseen["webdataset_shards"] == made["webdataset_shards", "p"].computed
        assert all(foreseen[asset] >= made[asset, "p"].computed for asset in ASSETS)
        self._check_made(cost, made)

    def _check_made(self, cost: Cost, made: Mapping[tuple[str, str], ShardSet]) -> None:
        """By a run that came to its end."""
        self._check_cost(cost)
        now = self._now()
        self.made_of = dict.fromkeys(ASSETS, now)
        counts = [len(now.packed), sum(not now.is_refused(group) for group in now.packed.values()), len(now.embedded)]
        assert [made[asset, "p"].commit.total_samples for asset in ASSETS] == counts
        assert [problem for asset in ASSETS for problem in verify(made[asset, "p"])] == []
        expected, found = self.changing.files_from_nothing(), self.changing.files()
        assert {name for name, data in expected.items() if found.get(name) != data} == set()

    def _break(self, at: Break) -> None:
        def act() -> NoReturn:
            raise StorageError("the store fails") if at.how == "store fails" else Killed

        instruments, before = self.changing.instruments, self._commits()
        instruments.break_at(at.call, act, for_good=at.how == "killed")
        try:
            cost, made = self.changing.run()
        except (ShardmillError, Killed):
            instruments.mend()
            if not instruments.is_broken:
                raise
            self._check_cost(instruments.taken())
            self._look_at_what_is_left(before)
        else:
            instruments.mend()
            self._check_made(cost, made)

    def _look_at_what_is_left(self, before: Mapping[str, bytes | None]) -> None:
        """By a run that broke off: whole commits, some of them new."""
        after = self._commits()
        self.made_of.update({asset: self._now() for asset in ASSETS if after[asset] != before[asset]})
        for asset in ASSETS:
            shards = self.changing.dataset().stored(asset, "p")
            if shards is not None:
                assert [problem for problem in verify(shards) if not is_left_behind(problem)] == []

    def _check_cost(self, cost: Cost) -> None:
        now = self._now()
        packed, transformed, embedded = (self.made_of[asset] for asset in ASSETS)
        most = Cost(to_embed(embedded, now), to_transform(transformed, now), to_fetch(packed, now))
        assert all(did <= may for did, may in zip(cost, most, strict=True)), f"{cost} exceeds {most}"

    def _commits(self) -> dict[str, bytes | None]:
        """The bytes of each asset's commit."""
        found = {}
        for asset in ASSETS:
            shards = self.changing.dataset().stored(asset, "p")
            found[asset] = shards and self.changing.place.storage.read(shards.layout.commit)
        return found

    def _now(self) -> World:
        fields = self.changing.fields
        return World({key: dict(group) for key, group in self.source.items()}, fields["transform"], fields["embedder"])

    # What the source holds.

    def _some(self, which: int, count: int = 1) -> list[str]:
        keys = sorted(self.source)
        return [keys[(which + number) % len(keys)] for number in range(count)]

    def _put(self, key: str, component: str, item: Object) -> None:
        self.count += 1
        self.source.setdefault(key, {})[component] = Object(item.data, self.count, item.size)
        self.changing.put(f"{key}.{component}", item.data)

    def _delete(self, key: str, component: str) -> None:
        del self.source[key][component]
        if not self.source[key]:
            del self.source[key]
        self.changing.delete(f"{key}.{component}")

    def _image(self, component: str = "jpg", size: int = 0) -> Object:
        """A new one, of 8 to 24 pixels."""
        self.count += 1
        pixels = np.random.default_rng(self.count).integers(0, 256, (4, 4, 3), np.uint8)
        size = size or 8 + 4 * (self.count % 5)
        image, buffer = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC), io.BytesIO()
        if component == "mask.png":
            image = image.convert("L")
        image.save(buffer, "JPEG" if component == "jpg" else "PNG")
        return Object(buffer.getvalue(), 0, size)

    def _content(self, key: str, component: str) -> Object:
        """New; a mask has the size of an image, if there is one."""
        if component == "mask.png":
            return self._image(component, max(item.size for item in self.source[key].values()))
        self.count += 1
        return Object(str(self.count % 3).encode(), 0)


def is_left_behind(problem: str) -> bool:
    """Whether the next run settles it, and readers who go by the commit never see it."""
    return "is named by no commit" in problem or "a run was killed before it wrote that" in problem


RUN_AND_DIE = f"""
import json, sys
from {__name__} import run_and_die
run_and_die(*json.loads(sys.argv[1]))
"""


def run_and_die(uri: str, fields: dict[str, Any], call: int) -> None:
    """Run what is at `uri`, and be killed at a call."""
    EMBEDDERS[SMALL["model"]] = small_embedder.__name__
    changing = Changing(Place("file", uri), Instruments(pytest.MonkeyPatch()), fields, last=ASSETS[-1])
    changing.instruments.break_at(call, lambda: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[arg-type]
    changing.run()
    os._exit(0)  # whatever threads the libraries have


NewWalk = Callable[[int], Walk]


@pytest.fixture
def new_walk(place: NewPlace, counting: Instruments, embedder_of_tests: dict[str, str], start: Start) -> NewWalk:
    """Begins a walk with so many kills of processes."""

    def make(kills: int) -> Walk:
        fields: dict[str, Any] = {
            **{part: {name: values[0] for name, values in fields.items()} for part, fields in FIELDS.items()},
            "stages": [{"name": "sizes", "use": f"{__name__}:Sizes"}],
            "max_reject_ratio": 1.0,
        }
        fields["embedder"] |= SMALL
        where = place("file")
        fields["source"] = {"metadata": {"table": f"{where.uri}/said.csv", "key_column": "id"}}
        changing = Changing(where, counting, fields, last=ASSETS[-1])

        def kill(call: int) -> None:
            process = start(RUN_AND_DIE, json.dumps([changing.place.uri, changing.fields, call]))
            assert process.wait() in (0, -signal.SIGKILL)

        return Walk(changing, kill, kills)

    return make


def test_short_walks_end_in_what_is_made_from_nothing(new_walk: NewWalk) -> None:
    run_state_machine_as_test(lambda: new_walk(0), settings=settings(max_examples=3, stateful_step_count=12))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_long_walks_end_in_what_is_made_from_nothing(new_walk: NewWalk) -> None:
    long = settings(max_examples=3, stateful_step_count=200, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: new_walk(5), settings=long)
