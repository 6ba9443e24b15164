"""Weights on a hub: a server that answers as Hugging Face's does."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shardmill.embedders import EmbedderSpec, weights_identity
from shardmill.embedders.hub import HubFile
from shardmill.embedders.weights import read_state_dict
from shardmill.errors import ConfigurationError, ConflictError
from shardmill.storage import Storage

torch = pytest.importorskip("torch")
hub = pytest.importorskip("huggingface_hub")
safetensors = pytest.importorskip("safetensors.torch")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = ("model.safetensors", "pytorch_model.bin")


class Hub:
    """Repositories' files by `<repository>/<name>`; notes what is asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.is_away = False


@pytest.fixture
def hugging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, whole: bool) -> None:
            name = self.path.lstrip("/").replace("/resolve/main/", "/").replace(f"/resolve/{COMMIT}/", "/")
            if name.startswith("me/"):  # the client has requests of its own
                state.asked.append(f"{self.command} {name}")
            data = state.files.get(name)
            if state.is_away or data is None:
                self.send_response(500 if state.is_away else 404)
                if not state.is_away:
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.end_headers()
            if whole:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield state
    server.shutdown()
    server.server_close()


def weights(value: float) -> bytes:
    return safetensors.save({"weight": torch.full((2,), value)})


def test_the_hub_says_which_bytes_they_are_and_they_are_fetched_once(hugging: Hub) -> None:
    data = hugging.files["me/net/model.safetensors"] = weights(1)
    file = HubFile("me/net", NAMES)
    identity = file.identity()
    assert identity == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert not [each for each in hugging.asked if each.startswith("GET")]
    for _ in range(2):
        assert read_state_dict(file, Storage(), identity)["weight"].tolist() == [1, 1]
    assert [each for each in hugging.asked if each.startswith("GET")] == ["GET me/net/model.safetensors"]


def test_the_second_name_is_taken_where_there_is_no_first(hugging: Hub, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "w.bin")
    hugging.files["me/net/pytorch_model.bin"] = (tmp_path / "w.bin").read_bytes()
    file = HubFile("me/net", NAMES)
    assert read_state_dict(file, Storage(), file.identity())["weight"].tolist() == [0, 0]


def test_weights_that_were_replaced_since_planning_are_refused(hugging: Hub) -> None:
    hugging.files["me/net/model.safetensors"] = weights(1)
    file = HubFile("me/net", NAMES)
    identity = file.identity()
    hugging.files["me/net/model.safetensors"] = weights(2)
    with pytest.raises(ConflictError, match="they were replaced"):
        read_state_dict(file, Storage(), identity)


def test_what_was_fetched_once_does_without_the_hub(hugging: Hub) -> None:
    hugging.files["me/net/model.safetensors"] = weights(1)
    file = HubFile("me/net", NAMES)
    identity = file.identity()
    read_state_dict(file, Storage(), identity)
    hugging.is_away = True
    assert file.identity() == identity
    assert read_state_dict(file, Storage(), identity)["weight"].tolist() == [1, 1]


def test_a_hub_that_is_away_says_how_to_give_weights_and_no_other_file_is_taken(hugging: Hub) -> None:
    hugging.is_away = True
    with pytest.raises(ConfigurationError, match=r"cannot be fetched .*fetch model\.safetensors elsewhere and give"):
        HubFile("me/net", NAMES).identity()
    assert not [each for each in hugging.asked if each.endswith("pytorch_model.bin")]


def test_a_repository_without_weights_is_named(hugging: Hub) -> None:
    with pytest.raises(ConfigurationError, match=r"the weights hf://me/net cannot be fetched"):
        HubFile("me/net", NAMES).identity()


def test_weights_of_one_s_own_are_named_by_repository_and_file(hugging: Hub) -> None:
    data = hugging.files["me/net/fine/tuned.safetensors"] = weights(1)
    for uri in ("hf://me/net/fine/tuned.safetensors", "hf://me/net@main/fine/tuned.safetensors"):
        identity = weights_identity(EmbedderSpec(weights=uri), Storage())
        assert identity == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert read_state_dict(uri, Storage(), identity)["weight"].tolist() == [1, 1]
    for uri in ("hf://me/net", "hf://net/"):
        with pytest.raises(ConfigurationError, match="write hf://<owner>/<repository>/<file>"):
            weights_identity(EmbedderSpec(weights=uri), Storage())
