"""A deployment's three processes, started by the very commands that its files give, on ports and paths of a test."""

import json
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.deploy.conftest import Instance
from tests.servers.processes import Child, free_ports

SECONDS = 300.0

LAUNCH = """
mutation ($parameters: ExecutionParams!) {
  launchPipelineExecution(executionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""
RELOAD = "mutation ($location: String!) { reloadRepositoryLocation(repositoryLocationName: $location) { __typename } }"
STATUS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


class Services:
    """Code location, daemon and web server of a project, within a `with` block.

    In every command and in the workspace, what stands for the production's paths and ports is replaced by the test's.
    """

    def __init__(self, project: Path, instance: Instance, workspace: Path, paths: Mapping[str, str]) -> None:
        self.code_port, self.web_port = free_ports(2)
        self._instance = instance
        self._project = project
        ports = {"=4000": f"={self.code_port}", "=3000": f"={self.web_port}"}
        self._replaced = {**paths, **ports}
        file = project / "workspace.yaml"
        text = workspace.read_text().replace("code-location,", "127.0.0.1,")
        file.write_text(text.replace("port: 4000", f"port: {self.code_port}"))
        self._children = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._children.close()

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start one of the processes, which ends with the block."""
        environment = {**self._instance.environment, "PYTHONPATH": str(self._project)}
        child = Child([self._of_the_test(word) for word in command], self._log(name), environment)
        self._children.callback(child.stop)
        return child

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """What the web server's GraphQL answers."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        address = f"http://127.0.0.1:{self.web_port}/graphql"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data

    def submit(self, asset: list[str], partition: str) -> str:
        """Ask the web server for a run, as the UI does, and return its id."""
        selector = {
            "repositoryLocationName": "shardmill",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": asset}],
        }
        tags = [{"key": "dagster/partition", "value": partition}]
        parameters = {"selector": selector, "mode": "default", "executionMetadata": {"tags": tags}}
        answers: list[dict[str, Any]] = []

        def launched() -> bool:
            with suppress(OSError):
                answers.append(self.ask(LAUNCH, parameters=parameters)["launchPipelineExecution"])
            return bool(answers) and "run" in answers[-1]

        self.wait_until(launched)
        return str(answers[-1]["run"]["runId"])

    def reload(self) -> None:
        """Reload the definitions, as the UI's button does."""
        self.ask(RELOAD, location="shardmill")

    def wait_for(self, run: str, status: str) -> None:
        """Return once the run has this status."""
        self.wait_until(lambda: self.ask(STATUS, run=run)["runOrError"].get("status") == status)

    def wait_until(self, condition: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Return once `condition()` holds; raise with every log when that takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(self._logs())
            time.sleep(0.2)

    def _of_the_test(self, word: str) -> str:
        for theirs, ours in self._replaced.items():
            word = word.replace(theirs, ours)
        return word

    def _log(self, name: str) -> Path:
        return self._instance.home / f"{name}.log"

    def _logs(self) -> str:
        return "\n".join(f"---- {log.name}\n{log.read_text()[-3000:]}" for log in self._instance.home.glob("*.log"))
