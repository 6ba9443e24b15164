"""What the comparisons are made of: what counts as the same work, what is counted, what the table says."""

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.comparison.checks import (
    Incomparable,
    same_bytes,
    same_pictures,
    same_tensors,
    same_vectors,
    similar_vectors,
)
from benchmarks.comparison.peers.outputs import picture
from benchmarks.comparison.report import per_call, per_sample, standing, table
from benchmarks.comparison.rounds import take_turns
from benchmarks.comparison.usage import cpu_seconds, end, resident_bytes
from benchmarks.comparison.variants import Errand, Input, Variant


def test_bytes_are_compared_whatever_the_names() -> None:
    assert same_bytes({"a": "1", "b": "2"}, {"0": "2", "1": "1"}, {}) == "2 images, byte for byte the source's"


@pytest.mark.parametrize("found", [{"0": "1"}, {"0": "1", "1": "1"}, {"0": "1", "1": "2", "2": "2"}])
def test_a_lost_a_changed_or_an_extra_image_is_not_the_same_work(found: dict[str, str]) -> None:
    with pytest.raises(Incomparable):
        same_bytes({"a": "1", "b": "2"}, found, {})


def jpeg(grey: int = 100, size: tuple[int, int] = (350, 350), **options: Any) -> list[int]:
    """What the comparison takes from a JPEG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, "JPEG", **{"quality": 75, **options})
    return picture(file.getvalue())


def test_pictures_of_another_size_quality_or_of_other_pixels_are_not_the_same_work() -> None:
    right = {"a": jpeg()}
    assert same_pictures(right, {"a": jpeg(103)}, {})
    for wrong in (jpeg(size=(349, 350)), jpeg(quality=60), jpeg(subsampling="4:4:4"), jpeg(110)):
        with pytest.raises(Incomparable):
            same_pictures(right, {"a": wrong}, {})
    assert same_pictures(right, {"a": jpeg(110)}, {"article": True})


def test_few_pictures_may_be_of_other_colours_and_none_of_something_else() -> None:
    right = {str(number): jpeg() for number in range(10)}
    assert same_pictures(right, {**right, "0": jpeg(110)}, {})
    with pytest.raises(Incomparable):
        same_pictures(right, {**right, "0": jpeg(200)}, {})


def test_tensors_of_another_size_or_of_other_pixels_are_not_the_same_work() -> None:
    right = {"a": [20, 30, *[100.0] * 64]}
    assert same_tensors(right, {"a": [20, 30, *[102.0] * 64]}, {}).startswith("1 images, thumbnails within 4")
    for wrong in ({"a": [21, 30, *[100.0] * 64]}, {"a": [20, 30, *[120.0] * 64]}, {}):
        with pytest.raises(Incomparable):
            same_tensors(right, wrong, {})


def test_vectors_have_to_point_where_ours_do() -> None:
    right = {"a": [1.0, 0.0]}
    assert same_vectors(right, {"a": [2.0, 0.01]}, {})
    for wrong in ({"a": [1.0, 0.1]}, {"b": [1.0, 0.0]}):
        with pytest.raises(Incomparable):
            same_vectors(right, wrong, {})
    assert same_vectors(right, {"a": [1.0, 0.1]}, {"bfloat16": True})


def test_vectors_of_crops_of_its_own_may_differ_where_few_do() -> None:
    right = {name: [1.0, 0.0] for name in "abc"}
    assert similar_vectors(right, {"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [1.0, 0.3]}, {})
    for wrong in ([1.0, 0.3], [0.0, 1.0]):
        with pytest.raises(Incomparable):
            similar_vectors(right, {"a": [1.0, 0.0], "b": wrong, "c": wrong}, {})


def test_descendants_count_also_when_they_have_ended_or_left_their_parent() -> None:
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    code = f"""
import subprocess, sys
from benchmarks.comparison.usage import adopt_orphans
adopt_orphans()
subprocess.run([sys.executable, "-c", {burn!r}], check=True)
orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
subprocess.run([sys.executable, "-c", orphan, {burn!r} + "\\ninput()"], check=True)
print("started", flush=True)
input()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        while cpu_seconds(process.pid) < 0.6:
            assert process.poll() is None
            time.sleep(0.01)
        assert resident_bytes(process.pid) > 2**20
    finally:
        end(process.pid)
        process.communicate()


def turn(few: float, everything: float) -> dict[str, Any]:
    return {
        name: {"wall_seconds": value, "cpu_seconds": value, "peak_bytes": 2**20}
        for name, value in (("few", few), ("all", everything))
    }


def outcome(name: str, kind: str, *turns: dict[str, Any], same_work: bool = True, left_out: str = "") -> dict[str, Any]:
    variant = {"name": name, "kind": kind, "options": {}, "note": "", "same_work": same_work}
    return {"variant": variant, "turns": list(turns), "left_out": left_out}


RESULT = {
    "stage": "work",
    "images": 110,
    "few": 10,
    "outcomes": [
        outcome("ours", "ours", turn(0.2, 0.3), turn(0.2, 0.4)),
        outcome("careful", "peer", turn(0.1, 0.5), turn(0.1, 0.5)),
        outcome("careless", "peer", turn(0.01, 0.02), turn(0.01, 0.02), same_work=False),
        outcome("absent", "peer", left_out="it is not installed"),
        outcome("least", "limit", turn(0.0, 0.1), turn(0.0, 0.1)),
    ],
}


def test_what_any_call_takes_is_apart_from_what_a_sample_takes() -> None:
    ours = RESULT["outcomes"][0]
    assert per_sample(RESULT, ours, "cpu_seconds") == pytest.approx([1.0, 2.0])
    assert per_call(RESULT, ours, "cpu_seconds") == pytest.approx([0.19, 0.18])


def test_a_table_compares_with_the_best_that_does_the_same_and_names_what_is_left_out() -> None:
    lines = table(RESULT).splitlines()
    assert lines[2] == "| **ours** | 1.50 | 1.50 | 0.18, 0.18 | 1 | 0.38, 0.38 | 1.50, 1.50 |"
    assert lines[3].startswith("| careful | 4.00 | 4.00 | 0.06, 0.06 | 1 | 1.00, 1.00 | ")
    assert lines[5] == "| limit: least | 1.00 | 1.00 | 0.00, 0.00 | 1 |  |  |"
    assert lines[-1] == "Left out: absent: it is not installed"


def test_where_ours_stands_names_the_best_peer_that_does_the_same() -> None:
    assert standing(RESULT) == ["| work: ours | 0.38 | 1.50 | 0.38 | 1.50 | careful |"]


def test_an_errand_is_what_was_sent() -> None:
    errand = Errand("a:b", None, {"x": 1}, Input(Path("/few")), Input(Path("/all"), Path("/tars")), Path("/o"), 2)
    assert Errand.from_json(errand.to_json()) == errand


def test_a_variant_that_fails_or_is_not_installed_is_left_out_with_the_reason(tmp_path: Path) -> None:
    variants = [Variant("broken", "peer", "benchmarks.nothing:there"), Variant("peer", "peer", "a:b", needs="a")]
    source, pythons = Input(tmp_path), {False: Path(sys.executable), True: None}
    broken, absent = take_turns(variants, source, source, {}, same_bytes, tmp_path / "work", 1, 1, pythons)
    assert "No module named 'benchmarks.nothing'" in broken.left_out
    assert "make peers" in absent.left_out
    assert not broken.turns
    assert not absent.turns


def write(source: Input, target: Path, workers: int, wrong: bool = False) -> None:
    """A variant: copies the images, with `wrong` all but the last byte."""
    target.mkdir(parents=True)
    for file in source.files.iterdir():
        (target / file.name).write_bytes(file.read_bytes()[: -1 if wrong else None])


def read(target: Path) -> tuple[list[str], list[str]]:
    """What it wrote."""
    return [file.stem for file in target.iterdir()], [file.read_bytes().hex() for file in target.iterdir()]


def test_a_variant_that_writes_wrong_bytes_is_left_out_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(2):
        (tmp_path / f"images/{number}.jpg").write_bytes(bytes([number, 7]))
    here = "tests.benchmarks.test_comparison"
    variants = [
        Variant("right", "ours", f"{here}:write", f"{here}:read"),
        Variant("wrong", "peer", f"{here}:write", f"{here}:read", {"wrong": True}),
    ]
    source, pythons = Input(tmp_path / "images"), {False: Path(sys.executable)}
    right, wrong = take_turns(variants, source, source, None, same_bytes, tmp_path / "work", 1, 1, pythons)
    assert (len(right.turns), right.left_out) == (1, "")
    assert (wrong.turns, wrong.left_out[:14]) == ([], "2 images of 2,")
    with pytest.raises(SystemExit, match="nothing to compare with"):
        take_turns(
            [Variant("ours", "ours", "no:where")], source, source, None, same_bytes, tmp_path / "x", 1, 1, pythons
        )
