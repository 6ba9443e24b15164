"""The image's recipe fits the repository: what it copies and installs is there. No image is built here."""

import re
import shlex
import tomllib

from packaging.requirements import Requirement

from tests.deploy.conftest import DEPLOY

ROOT = DEPLOY.parent
RECIPE = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", RECIPE, re.MULTILINE)


def copied() -> set[str]:
    return {source for line in instructions("COPY") for source in line.split()[:-1]}


def test_what_it_copies_is_there_and_let_through() -> None:
    assert all((ROOT / source).exists() for source in copied())
    let_through = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(let_through) == copied()


def test_it_copies_every_package_of_the_control_plane() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["importlinter"]["root_packages"]) <= copied()


def test_it_installs_by_the_pins_what_the_files_of_deploy_name() -> None:
    [install] = [shlex.split(line) for line in instructions("RUN") if line.startswith("pip install")]
    assert install[install.index("--constraint") + 1] == "constraints.txt"
    extras = Requirement(f"shardmill{install[install.index('--editable') + 1].removeprefix('.')}").extras
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras <= set(offered)
    installed = {requirement for extra in extras for requirement in offered[extra]}
    modules = {
        module
        for file in DEPLOY.rglob("*.yaml")
        for module in re.findall(r"^  module: (\w+)", file.read_text(), re.MULTILINE)
    }
    assert {module.replace("_", "-") for module in modules} | {"dagster-postgres", "dagster-webserver"} <= installed
