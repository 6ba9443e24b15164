"""Dagster's programs take the arguments that units, containers and image give them."""

import functools
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.conftest import DEPLOY


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command in deploy/, by the file that it stands in."""
    for unit in sorted(DEPLOY.glob("systemd/*.service")):
        [line] = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
        yield unit.name, shlex.split(line.removeprefix("/opt/shardmill/.venv/bin/"))
    for file in sorted(DEPLOY.glob("*/*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            if manifest.get("kind") == "Deployment":
                yield file.name, manifest["spec"]["template"]["spec"]["containers"][0]["args"]
            elif "command" in manifest.get("runtime", {}):
                yield file.name, manifest["runtime"]["command"]
    for file in sorted(DEPLOY.rglob("Dockerfile")):
        [line] = re.findall(r"^CMD (.*)$", file.read_text(), re.MULTILINE)
        yield file.relative_to(DEPLOY).as_posix(), json.loads(line)


@functools.cache
def usage(*command: str) -> str:
    program = Path(sys.executable).with_name(command[0])
    return subprocess.run([program, *command[1:], "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", [pytest.param(command, id=name) for name, command in commands()])
def test_the_program_takes_these_arguments(command: list[str]) -> None:
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), command))
    flags = {word.partition("=")[0] for word in command[len(words) :] if word.startswith("-")}
    assert flags
    assert flags <= set(re.findall(r"--[a-z-]+", usage(*words)))
