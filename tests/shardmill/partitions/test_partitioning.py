"""Where the objects of each partition are, and to which partition an object belongs."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from shardmill.errors import ConfigurationError
from shardmill.partitions import Partitioning, PartitionsSpec, TimePartitioning, encode_segment, partitioning_of
from shardmill.partitions.keys import is_shortened
from shardmill.sources import Excludes
from shardmill.storage import Storage
from tests.servers.places import KINDS, Kind, NewPlace

SPEC: TypeAdapter[Any] = TypeAdapter(PartitionsSpec)
STORAGE = Storage()
PREFIX = {"by": "prefix"}


def partitioning(declared: Any, template: str) -> Partitioning:
    return partitioning_of(SPEC.validate_python(declared), template)


def by_time(every: str, template: str, start: str = "2024-01-01", timezone: str = "UTC") -> TimePartitioning:
    made = partitioning({"by": "time", "every": every, "start": start, "timezone": timezone}, template)
    assert isinstance(made, TimePartitioning)
    return made


def assert_agree(made: Partitioning, key: str, name: str, uri: str) -> None:
    """An object called `name` in the partition's folder, which is `uri`, belongs to the partition."""
    assert made.folder(key, STORAGE) == uri
    assert uri.startswith(f"{made.base}/")
    whole = f"{uri}/{name}"[len(made.base) + 1 :]
    match = made.match(whole)
    assert match is not None
    assert match[0] == key
    assert whole[match[1] :] == name


CONSTANT = st.text("ab.-+*?()[]{}^$|\\ é", max_size=4)
NAME = st.text("ab/.-(é\n", min_size=1, max_size=6).map(lambda name: name.strip("/") or "x")
SEGMENT = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(CONSTANT, CONSTANT, st.sampled_from(["", "/raw", "/a+b/(c)"]), SEGMENT, NAME)
@example("", "", "", "~", "x")
@example("", "", "", "写" * 12, "x")
@example("(", "+", "/raw", "a(", "x")
def test_an_object_in_the_folder_of_a_prefix_belongs_to_it(
    before: str, after: str, below: str, segment: str, name: str
) -> None:
    made = partitioning(PREFIX, f"s3://bucket/top/{before}{{partition}}{after}{below}")
    key = encode_segment(segment)
    if not is_shortened(key):
        assert_agree(made, key, name, f"s3://bucket/top/{before}{segment}{after}{below}")


@given(CONSTANT, CONSTANT, st.from_regex(r"[A-Za-z0-9_=+-][A-Za-z0-9_=+-]{0,8}", fullmatch=True), NAME)
def test_an_object_in_the_folder_of_a_declared_key_belongs_to_it(before: str, after: str, key: str, name: str) -> None:
    made = partitioning([key], f"gs://bucket/{before}{{partition}}{after}")
    assert_agree(made, key, name, f"gs://bucket/{before}{key}{after}")


MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2026, 1, 1))
TEMPLATES = {"hour": "%Y/%m/%d/%H", "day": "%Y-%m-%d", "month": "%Y%m"}


@given(st.sampled_from(list(TEMPLATES)), CONSTANT, CONSTANT, MOMENTS, NAME)
def test_an_object_in_the_folder_of_a_window_belongs_to_it(
    every: str, before: str, after: str, moment: datetime, name: str
) -> None:
    made = by_time(every, f"s3://b/{before}{TEMPLATES[every]}{after}")
    key = moment.strftime({"hour": "%Y-%m-%d-%H", "day": "%Y-%m-%d", "month": "%Y-%m"}[every])
    assert_agree(made, key, name, f"s3://b/{before}{moment.strftime(TEMPLATES[every])}{after}")


@pytest.mark.parametrize(
    ("declared", "template", "name"),
    [
        (PREFIX, "s3://b/r/{partition}", "object-beside-the-folders"),
        (PREFIX, "s3://b/r/{partition}", "folder/"),
        (PREFIX, "s3://b/r/{partition}", "/x"),
        (PREFIX, "s3://b/r/{partition}/raw", "p/cooked/x"),
        (PREFIX, "s3://b/r/{partition}/raw", "p/raw0/x"),
        (PREFIX, "s3://b/r/{partition}/raw", "p/q/raw/x"),
        (PREFIX, "s3://b/r/v{partition}.d", "v1xd/x"),
        (["a", "b"], "s3://b/r/{partition}", "c/x"),
        (["a", "b"], "s3://b/r/{partition}", "ab/x"),
    ],
)
def test_what_is_beside_the_template_belongs_to_no_partition(declared: Any, template: str, name: str) -> None:
    assert partitioning(declared, template).match(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "2023-12-31/x",  # before the start
        "2999-01-01/x",
        "2024-02-30/x",
        "2024-13-01/x",
        "2024-1-1/x",
        "2024-01-01x/x",
        "٢٠٢٤-01-01/x",  # digits, but no folder that is ever looked at
        "2024-01-01",
    ],
)
def test_what_is_no_window_belongs_to_no_partition(name: str) -> None:
    assert by_time("day", "s3://b/%Y-%m-%d").match(name) is None
    assert by_time("day", "s3://b/%Y-%m-%d").match("2024-01-01/x") == ("2024-01-01", 11)


def test_a_single_key_without_a_placeholder_has_everything() -> None:
    made = partitioning(["all"], "s3://b/r")
    assert made.folder("all", STORAGE) == made.base == "s3://b/r"
    assert made.match("a/b") == ("all", 0)


@pytest.mark.parametrize(
    "key", ["", "~", ".", "..", "a..b", "a b", "a/b", "~41", "~2f", "é", "a\n", "a~~0123456789abcdef"]
)
def test_no_prefix_has_a_key_that_no_name_gives(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no partition .*s3://b/r"):
        partitioning(PREFIX, "s3://b/r/{partition}").folder(key, STORAGE)


def test_the_empty_name_is_one_where_the_folder_has_more_to_its_name() -> None:
    assert_agree(partitioning(PREFIX, "s3://b/r/v{partition}"), "~", "x", "s3://b/r/v")


def test_the_refusal_of_a_declared_key_names_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="there is no partition 'c'; there are a, b"):
        partitioning(["a", "b"], "s3://b/{partition}").check("c")


@pytest.mark.parametrize(
    "key", ["2023-12-31", "2999-01-01", "2024-1-1", "2024-02-30", "2024-01", "x", "", "٢٠٢٤-01-01"]
)
def test_the_refusal_of_a_window_says_where_they_begin(key: str) -> None:
    with pytest.raises(ConfigurationError, match="they are a day each, from 2024-01-01 on"):
        by_time("day", "s3://b/%Y-%m-%d").check(key)


def test_a_percent_sign_in_a_template_of_time_is_written_twice() -> None:
    made = by_time("day", "s3://b/100%%/%Y/%m/%d%%")
    assert_agree(made, "2024-05-06", "x", "s3://b/100%/2024/05/06%")


# Windows.


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(
    st.sampled_from(list(TEMPLATES)), st.sampled_from(["UTC", "Asia/Kolkata"]), MOMENTS, st.integers(0, 60 * 24 * 40)
)
def test_windows_between_two_moments_have_no_gap_and_no_double(
    every: str, timezone: str, first: datetime, minutes: int
) -> None:
    made = by_time(every, f"s3://b/{TEMPLATES[every]}", timezone=timezone)
    begin = first.replace(tzinfo=UTC)
    keys = made.between(begin, begin + timedelta(minutes=minutes))
    assert keys == sorted(set(keys))
    zone = ZoneInfo(timezone)
    written = {"hour": "%Y-%m-%d-%H", "day": "%Y-%m-%d", "month": "%Y-%m"}[every]
    wanted = {
        (begin + timedelta(minutes=m)).astimezone(zone).strftime(written) for m in {*range(0, minutes, 30), minutes}
    }
    assert set(keys) == wanted


@pytest.mark.parametrize(
    ("first", "hours"),
    [("2025-03-30", 23), ("2025-10-26", 25)],
)
def test_a_day_of_daylight_saving_is_one_window(first: str, hours: int) -> None:
    made = by_time("day", "s3://b/%Y-%m-%d", timezone="Europe/Berlin")
    midnight = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    assert made.between(midnight, midnight + timedelta(hours=hours) - timedelta(seconds=1)) == [first]
    following = (datetime.fromisoformat(first) + timedelta(days=1)).strftime("%Y-%m-%d")
    assert made.between(midnight, midnight + timedelta(hours=hours)) == [first, following]


def test_windows_are_those_of_the_zone() -> None:
    assert by_time("day", "s3://b/%Y-%m-%d", timezone="Asia/Tokyo").between(
        moment("2025-01-01T14:59"), moment("2025-01-01T15:00")
    ) == ["2025-01-01", "2025-01-02"]


def test_no_window_is_before_the_start() -> None:
    made = by_time("month", "s3://b/%Y%m", start="2025-03-01")
    assert made.between(moment("2024-12-01T00:00"), moment("2025-04-02T00:00")) == ["2025-03", "2025-04"]
    assert made.between(moment("2024-12-01T00:00"), moment("2025-02-28T00:00")) == []


def test_recent_windows_end_with_the_one_that_is_open_now() -> None:
    made = by_time("hour", "s3://b/%Y/%m/%d/%H")
    now = datetime.now(UTC)
    keys = made.recent(3)
    assert len(keys) in (4, 5)
    assert keys[-1] >= now.strftime("%Y-%m-%d-%H")
    assert keys[0] == (now - timedelta(hours=3)).strftime("%Y-%m-%d-%H") or len(keys) == 5


def test_a_window_begins_to_exist_when_it_begins() -> None:
    made = by_time("day", "s3://b/%Y-%m-%d", timezone="Pacific/Kiritimati")  # the first to have a new day
    today = datetime.now(ZoneInfo("Pacific/Kiritimati"))
    assert made.match(f"{today:%Y-%m-%d}/x")
    assert made.match(f"{today + timedelta(days=2):%Y-%m-%d}/x") is None


# What does not fit.


@pytest.mark.parametrize(
    ("declared", "template", "problem"),
    [
        ({"by": "time", "start": "2024-01-01"}, "s3://b/%Y-%m", "needs each of %Y %m %d once: one folder a day"),
        ({"by": "time", "start": "2024-01-01"}, "s3://b/%Y-%m-%d/%d", "needs each of %Y %m %d once"),
        ({"by": "time", "start": "2024-01-01"}, "s3://b/%Y-%m-%d-%H", "needs each of %Y %m %d once"),
        ({"by": "time", "start": "2024-01-01"}, "s3://b/%Y-%m-%%d", "needs each of %Y %m %d once"),
        ({"by": "time", "start": "2024-01-01"}, "s3://b%Y%m%d", "in the bucket's name"),
        (PREFIX, "s3://b/r", "needs {partition} once: each name in its place is a partition"),
        (PREFIX, "s3://b/{partition}/{partition}", "needs {partition} once"),
        (PREFIX, "s3://{partition}/r", "in the bucket's name"),
        ({"by": "batch"}, "s3://b/{partition}", "a batch holds objects from all folders"),
        (["a", "b"], "s3://b/r", "lacks {partition}: every partition would hold the same samples"),
        (["a"], "s3://b/{partition}/{partition}", "has {partition} more than once"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(declared: Any, template: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        partitioning(declared, template)
    assert problem in str(caught.value)


# On stores.

NAMES = ["a", "a-b", "a.b", "a b", "a0", "é,写", "~", "...x"]
LONG = ["long-" + "x" * 118, "long-" + "x" * 118 + "-y", "写" * 60, "x" * 102 + "-y" * 20]


def put_all(place: Any, template: str, names: list[str]) -> None:
    for number, name in enumerate(names):
        for each in range(1 + number % 2):
            place.put(f"{template.replace('{partition}', name)}/sub/{each}.jpg", b"data")


@pytest.mark.parametrize("template", ["raw/{partition}", "raw/v.{partition}.d", "raw/{partition}/im+ages"])
@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_are_the_names_that_the_source_holds(place: NewPlace, kind: Kind, template: str) -> None:
    at = place(kind)
    put_all(at, template, NAMES + LONG)
    at.put("raw/beside.jpg", b"data")
    at.put("beside/x/y.jpg", b"data")
    made = partitioning(PREFIX, f"{at.uri}/{template}")
    keys = made.keys(at.storage)
    assert keys == sorted(encode_segment(name) for name in NAMES + LONG)
    for name in NAMES + LONG:
        key = encode_segment(name)
        assert made.folder(key, at.storage) == f"{at.uri}/{template.replace('{partition}', name)}"
    absent = encode_segment("long-" + "x" * 200)
    assert is_shortened(absent)
    with pytest.raises(ConfigurationError, match="there is no folder for the partition"):
        made.folder(absent, at.storage)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_those_that_the_source_holds_objects_of(place: NewPlace, kind: Kind) -> None:
    at = place(kind)
    for day in ("2023-12-31", "2025-11-03", "2025-11-05", "2999-01-01"):
        at.put(f"raw/{day}/x.jpg", b"data")
    start = (datetime.now(UTC) - timedelta(days=20)).date()
    at.put(f"raw/{start}/x.jpg", b"data")
    at.put(f"raw/{start + timedelta(days=7)}/x.jpg", b"data")
    made = by_time("day", f"{at.uri}/raw/%Y-%m-%d", start=str(start))
    assert made.keys(at.storage) == [str(start), str(start + timedelta(days=7))]


@pytest.mark.parametrize("template", ["{partition}", "raw/v{partition}/images"])
@pytest.mark.parametrize("count", [10, 40])
def test_prefixes_on_a_local_disk_cost_one_look_at_each_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, count: int
) -> None:
    for number in range(count):
        folder = tmp_path / template.replace("{partition}", str(number))
        folder.mkdir(parents=True)
        for each in range(5):
            (folder / f"{each}.jpg").write_bytes(b"data")
    read: list[str] = []
    scandir, stat = os.scandir, os.stat
    looked_at: list[Any] = []

    def counted_scandir(directory: str) -> Any:
        read.append(directory)
        return scandir(directory)

    def counted_stat(path: Any, **options: Any) -> os.stat_result:
        looked_at.append(path)
        return stat(path, **options)

    made = partitioning(PREFIX, f"{tmp_path}/{template}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", counted_scandir)
        patch.setattr(os, "stat", counted_stat)
        keys = made.keys(STORAGE)
    assert keys == sorted(str(number) for number in range(count))
    folders_of_a_partition = template[template.index("{") :].count("/") + 1
    assert len(read) == len(set(read)) == 1 + count * folders_of_a_partition
    assert len(looked_at) == count


def test_names_that_are_no_utf8_are_partitions_too(tmp_path: Path) -> None:
    names = ["\udce9t\udce9", "\udcff" * 70, "b\udcff" * 20 + "\U0010ffff" * 20, "\U0010ffff", "a"]
    for name in names:
        (tmp_path / name / "\U0010ffff").mkdir(parents=True)
        for file in ("\U0010ffff.jpg", "\udcff", "\udcff2", "\U0010ffff/\U0010ffff"):
            (tmp_path / name / file).write_bytes(b"data")
    made = partitioning(PREFIX, f"{tmp_path}/{{partition}}")
    assert made.keys(STORAGE) == sorted(encode_segment(name) for name in names)
    for name in names:
        assert made.folder(encode_segment(name), STORAGE) == f"file://{tmp_path}/{name}"


def test_a_name_that_begins_with_a_tilde_is_no_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = partitioning(PREFIX, "{partition}/raw")
    assert made.folder(encode_segment("~root"), STORAGE) == f"file://{os.getcwd()}/~root/raw"  # noqa: PTH109


@pytest.mark.parametrize("template", ["s3://{partition}/raw", "s3://raw-{partition}"])
def test_partitions_in_several_buckets_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="partitions share one bucket"):
        partitioning(PREFIX, template)


def test_what_stands_for_the_folder_of_a_partition_is_no_object_of_it() -> None:
    for made in (partitioning(PREFIX, "s3://b/{partition}"), partitioning(["a"], "s3://b/{partition}")):
        assert made.match("a/") is None
        assert made.match("a/x") == ("a", 2)


# Litter


@pytest.mark.parametrize(
    ("declared", "template"), [(PREFIX, "{partition}"), ({"by": "time", "start": "2026-01-01"}, "%Y-%m-%d")]
)
def test_a_folder_with_litter_alone_is_no_partition(tmp_path: Path, declared: Any, template: str) -> None:
    for name in ("2026-01-01/1.jpg", "2026-01-01/.DS_Store", "2026-01-02/._1.jpg", "@eaDir/1.jpg", "._x"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    made = partitioning(declared, f"{tmp_path}/{template}")
    assert made.keys(STORAGE) == ["2026-01-01"]
    assert made.match("@eaDir/1.jpg") is None
    assert made.match("2026-01-01/1.jpg") == ("2026-01-01", 11)


def test_what_is_excluded_makes_no_partition_and_without_the_defaults_litter_does(tmp_path: Path) -> None:
    for name in ("a/1.txt", "b/1.jpg", "@eaDir/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    template = f"{tmp_path}/{{partition}}"
    made = partitioning_of(SPEC.validate_python(PREFIX), template, Excludes(["*.txt"]))
    assert made.keys(STORAGE) == ["b"]
    made = partitioning_of(SPEC.validate_python(PREFIX), template, Excludes(defaults=False))
    assert made.keys(STORAGE) == ["a", "b", "~40eaDir"]
