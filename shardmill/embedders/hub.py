"""Weights on the Hugging Face hub, by its own client and cache: which bytes they are, and the file of them."""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from shardmill.errors import ConfigurationError
from shardmill.memory import lacks_memory

_T = TypeVar("_T")


class HubFile(NamedTuple):
    """A file in a repository of the hub: the first of some names that there is."""

    repository: str
    names: Sequence[str]
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}"

    def identity(self) -> str:
        """`sha256:<hex>` of its bytes, as the hub says, without fetching them; where that is away, of the cached file.

        Raises:
            ConfigurationError: It is neither to be reached nor cached.
        """
        return self._first(self._identity)

    def path(self) -> str:
        """The file in the hub's cache, where it is fetched to unless it is there.

        Raises:
            ConfigurationError: It is neither to be reached nor cached.
        """
        return self._first(self._fetched)

    def _first(self, ask: Callable[[Any, str], _T]) -> _T:
        """Of the first name that there is. None is passed over unasked: the next one holds other bytes."""
        try:
            import huggingface_hub as hub
            from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
        except ImportError as error:
            needs = f"the weights {self} need the hub's client: pip install huggingface_hub"
            raise ConfigurationError(needs) from error
        failure: Exception | None = None
        for name in self.names:
            try:
                return ask(hub, name)
            except Exception as error:  # of whatever kind the client's own library for HTTP has
                if lacks_memory(error):
                    raise
                failure = error
                is_absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
                if not is_absent and isinstance(self._cached(hub, name), str | None):
                    break
        why = str(failure).strip().partition("\n")[0]
        raise ConfigurationError(
            f"the weights {self} cannot be fetched ({why}); fetch {self.names[0]} elsewhere and give its path or URI "
            "as the embedder's `weights`"
        ) from failure

    def _identity(self, hub: Any, name: str) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        try:
            etag = hub.get_hf_file_metadata(hub.hf_hub_url(self.repository, name, revision=self.revision)).etag or ""
        except EntryNotFoundError:
            raise
        except Exception:  # not reached: what is cached counts
            cached = self._cached(hub, name)
            if not isinstance(cached, str):
                raise
            return _digest(cached)
        if re.fullmatch("[0-9a-f]{64}", etag):  # of all but small files, it is the digest
            return f"sha256:{etag}"
        return _digest(self._fetched(hub, name))

    def _fetched(self, hub: Any, name: str) -> str:
        return str(hub.hf_hub_download(self.repository, name, revision=self.revision))

    def _cached(self, hub: Any, name: str) -> Any:
        """Its path, None, or a mark that there is no such file in the repository."""
        return hub.try_to_load_from_cache(self.repository, name, revision=self.revision)


def hub_file(uri: str | HubFile) -> HubFile | None:
    """What `hf://<owner>/<repository>[@<revision>]/<file>` names; None for a URI that is not of the hub.

    Raises:
        ConfigurationError: It is of the hub, and names no file there.
    """
    if isinstance(uri, HubFile):
        return uri
    if not uri.startswith("hf://"):
        return None
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", uri)
    if found is None:
        raise ConfigurationError(f"{uri!r} names no file on the hub: write hf://<owner>/<repository>/<file>")
    return HubFile(found[1], [found[3]], found[2])


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
