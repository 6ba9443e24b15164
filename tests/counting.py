"""A storage that counts what is read."""

from typing import Any

from shardmill.storage import Storage


class CountingStorage(Storage):
    """Remembers each read: the verb and the URI."""

    reads: list[tuple[str, str]]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "reads", [])

    def open(self, uri: str) -> Any:
        self.reads.append(("open", uri))
        return super().open(uri)

    def read_version(self, uri: str) -> Any:
        self.reads.append(("read", uri))
        return super().read_version(uri)

    def read_range(self, uri: str, offset: int, length: int) -> bytes:
        self.reads.append(("range", uri))
        return super().read_range(uri, offset, length)
