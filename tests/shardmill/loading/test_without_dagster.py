"""A training script needs the library with what its wheel requires, and nothing else: no Dagster, no extra."""

import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[3]
ONLY_THESE = """
import sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

missing = set(sys.argv[2].split())
sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
"""
READ = """
from shardmill import Loader, SampleTable, ShardStream, TransformSpec
from torch.utils.data import DataLoader

crop = {"operation": "RandomResizedCrop", "arguments": {"size": 24}}
spec = TransformSpec.model_validate({"operations": [crop]})
shards, table = (f"{sys.argv[1]}/{asset}/p" for asset in ("webdataset_shards", "embeddings"))
what = dict(transform=spec, columns=["cls"], embeddings=table, components=["jpg"])
stream = ShardStream(shards, shuffle=True, **what)
for loader in (DataLoader(SampleTable(shards, **what), batch_size=4), Loader(stream, batch_size=4)):
    for batch in loader:
        print(*batch["jpg"].shape, *batch["embedding"].shape, len(batch["cls"]))
assert "dagster" not in sys.modules
"""


def required() -> set[str]:
    """The distributions that the wheel requires, and those that these do."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    waiting, found = [Requirement(each) for each in project["dependencies"]], set[str]()
    while waiting:
        requirement = waiting.pop()
        name = normalised(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in found:
            found.add(name)
            with suppress(PackageNotFoundError):  # of another platform
                waiting += [Requirement(each) for each in requires(name) or ()]
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_samples_are_read_with_what_the_wheel_requires(tmp_path: Path, images, make_dataset, run_chain) -> None:
    images(tmp_path / "raw", 6)
    run_chain(make_dataset(tmp_path / "raw", tmp_path / "root"), last="embeddings")
    allowed = {*required(), "shardmill"}
    others = {
        module
        for module, distributions in packages_distributions().items()
        if not {normalised(each) for each in distributions} & allowed and not module.startswith("_")
    }
    assert {"dagster", "obstore", "boto3", "openvino", "pytest"} <= others
    done = subprocess.run(
        [sys.executable, "-c", ONLY_THESE + READ, str(tmp_path / "root/d"), " ".join(sorted(others))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["4 3 24 24 4 48 4", "2 3 24 24 2 48 2"] * 2


def test_names_of_the_loader_are_imported_when_they_are_used() -> None:
    code = """import sys, shardmill, shardmill.loading
print(*sys.modules)
assert shardmill.SampleTable is shardmill.loading.SampleTable
print(*sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert not before & {"torch", "torchdata", "torchvision", "pyarrow", "numpy"}
    assert {"torch", "shardmill.loading.table"} <= after
    assert not after & {"dagster", "torchvision"}
