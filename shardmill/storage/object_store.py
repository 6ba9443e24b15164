"""What object stores have in common, over obstore: a put publishes whole, preconditions exclude, reads are ranged."""

from __future__ import annotations

import contextlib
import io
import logging
import uuid
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from typing_extensions import override

from shardmill.errors import AccessDeniedError, ChangedError, ConflictError, ShardmillError, StorageError
from shardmill.storage.block_reader import BLOCK_BYTES, BlockReader
from shardmill.storage.connection import Connection
from shardmill.storage.credentials import Credentials
from shardmill.storage.object_names import PROBE, is_odd, is_probe, split_plain, split_uri
from shardmill.storage.objects import FolderOf, ObjectInfo, PassedOver
from shardmill.storage.retries import is_past_the_end, is_refusal
from shardmill.storage.store import Store
from shardmill.storage.uris import join_uri
from shardmill.temporary import temporary_directory

_log = logging.getLogger(__name__)

UPLOAD_PART_BYTES = 8 << 20
_PARTS_IN_FLIGHT = 4
_BUFFER_BYTES = 1 << 20
_LAST = "\U0010ffff"
"""Comes after nearly every name: also where a server lists folder by folder, and what is in `a` before `a-b`."""


class ObjectStore(Connection, Store):
    """A `Store` over buckets; one a process for each set of credentials."""

    excludes = False

    def __init__(self, credentials: Credentials, scheme: str) -> None:
        super().__init__(credentials)
        self._scheme = scheme
        self._warned: set[str] = set()

    # What a kind of store adds.

    @abstractmethod
    def version_of(self, meta: Any) -> str:
        """The version that obstore's metadata of an object gives, as `page` gives it too."""

    @abstractmethod
    def update_mode(self, version: str) -> Any:
        """The mode of an obstore put that replaces just this version."""

    @abstractmethod
    def page(self, bucket: str, prefix: str, after: str) -> tuple[list[ObjectInfo], bool]:
        """The next objects whose names begin with `prefix` and come after `after`, and whether they are the last."""

    @abstractmethod
    def read_odd(self, bucket: str, name: str) -> tuple[bytes, ObjectInfo]:
        """An object whose name obstore cannot express.

        Raises:
            FileNotFoundError: There is none.
        """

    @abstractmethod
    def filesystem(self) -> Any:
        """An fsspec file system with these credentials."""

    # The verbs.

    @override
    def list(
        self,
        folder: str,
        after: str | None = None,
        first_of: FolderOf | None = None,
        passed_over: PassedOver | None = None,
    ) -> Iterator[ObjectInfo]:
        """In the order of the names; a listing that breaks off goes on where it was."""
        bucket, name = split_uri(folder)
        prefix = f"{name}/" if name else ""
        last = split_uri(after)[1] if after else ""
        seen, done = after, None  # the object with which the page before ended; the folder whose first was given
        ended = False
        while not ended:
            infos, ended = self._carry_out("list", folder, partial(self.page, bucket, prefix, last))
            objects = (info for info in infos if not is_probe(info.uri))
            if first_of is None:
                yield from objects
            else:
                for info in objects:
                    if not (done and info.uri.startswith(done)):
                        yield info
                        known = first_of(info.uri)
                        done = known and join_uri(known, "")
            if infos:
                before, seen = seen, infos[-1].uri
                if seen == before:
                    raise StorageError(f"cannot list {folder}: the server begins anew wherever it is told to go on")
                last = split_uri(seen)[1]
                if done and seen.startswith(done):
                    last = max(last, f"{split_uri(done)[1]}{_LAST}")

    @override
    def stat(self, uri: str) -> ObjectInfo | None:
        bucket, name = split_uri(uri)
        try:
            if is_odd(name):
                return self._carry_out("read", uri, lambda: self.read_odd(bucket, name))[1]
            return self._info(uri, self._head(uri))
        except FileNotFoundError:
            return None

    @override
    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]:
        """Reads ahead in parallel, and only the version that stood at the beginning."""
        bucket, name = split_uri(uri)
        if is_odd(name):
            data, info = self.read_version(uri)
            return io.BytesIO(data), info
        meta = self._head(uri)
        info = self._info(uri, meta)

        def fetch(start: int, stop: int) -> Any:
            return self._carry_out("read", uri, lambda: self._range(bucket, name, start, stop, meta["e_tag"]))

        return cast(BinaryIO, io.BufferedReader(BlockReader(fetch, info.size), _BUFFER_BYTES)), info

    @override
    def read_version(self, uri: str) -> tuple[bytes, ObjectInfo]:
        """One request, but for large objects: those are read as by `open`."""
        return self._read_version(uri)

    def _read_version(self, uri: str, deadline_seconds: float | None = None) -> tuple[bytes, ObjectInfo]:
        import obstore

        bucket, name = split_uri(uri)

        def read() -> tuple[bytes, ObjectInfo]:
            if is_odd(name):
                return self.read_odd(bucket, name)
            result = obstore.get(self._client(bucket), name)
            if result.meta["size"] > BLOCK_BYTES:
                raise _Large
            data = result.bytes().to_bytes()
            _check_length(data, result.meta["size"])
            return data, self._info(uri, result.meta)

        try:
            return self._carry_out("read", uri, read, deadline_seconds)
        except _Large:
            stream, info = self.open(uri)
            with stream:
                return stream.read(), info

    @override
    def read_range(self, uri: str, offset: int, length: int) -> bytes:
        bucket, name = split_uri(uri)
        if is_odd(name):
            return self.read_version(uri)[0][offset : offset + length]
        return bytes(self._carry_out("read", uri, lambda: self._range(bucket, name, offset, offset + length, None)))

    @override
    def publish(self, file: Path, uri: str) -> None:
        """One put, or a multipart upload that is completed at the end."""
        import obstore

        bucket, name = split_plain(uri)
        large = file.stat().st_size > UPLOAD_PART_BYTES

        def put() -> Any:
            client = self._client(bucket, retries_parts=large)
            return obstore.put(client, name, file, chunk_size=UPLOAD_PART_BYTES, max_concurrency=_PARTS_IN_FLIGHT)

        # One half of the time is obstore's, for the parts; in the other the whole is begun again where it must be.
        self._carry_out("write", uri, put, self.credentials.deadline_seconds / (2 if large else 1))
        file.unlink()

    @override
    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        """The store's own precondition decides between writers."""
        import obstore
        import obstore.exceptions as failures

        bucket, name = split_plain(uri)
        mode: Any = "create" if expected is None else self.update_mode(expected)
        tries = 0

        def put() -> Any:
            nonlocal tries
            tries += 1
            return obstore.put(self._client(bucket), name, data, mode=mode, use_multipart=False)

        try:
            return self.version_of(self._carry_out("write", uri, put))
        except (failures.PreconditionError, failures.AlreadyExistsError):
            won = self._won(uri, data) if tries > 1 else None
            if won is None:
                raise ConflictError(f"{uri} was replaced by another writer; nothing was changed") from None
            return won
        except AccessDeniedError:
            raise
        except StorageError:
            with contextlib.suppress(StorageError):
                won = self._won(uri, data, deadline_seconds=0)
                if won is not None:
                    return won
            raise

    def _won(self, uri: str, data: bytes, deadline_seconds: float | None = None) -> str | None:
        """The version that stands if it is `data`: then a try whose answer was lost took effect."""
        try:
            present, info = self._read_version(uri, deadline_seconds)
        except FileNotFoundError:
            return None
        return info.version if present == data else None

    @override
    def copy(self, source: str, target: str) -> None:
        """The bytes do not pass through here."""
        import obstore

        (bucket, name), (other, place) = split_plain(source), split_plain(target)
        if bucket != other:
            raise StorageError(f"cannot copy {source} to {target}: they are in different buckets")
        self._carry_out("copy", source, lambda: obstore.copy(self._client(bucket), name, place))

    @override
    def move(self, source: str, target: str) -> None:
        """A copy and a removal."""
        self.copy(source, target)
        self.delete(source)

    @override
    def delete(self, uri: str) -> None:
        import obstore

        bucket, name = split_plain(uri)
        with contextlib.suppress(FileNotFoundError):
            self._carry_out("delete", uri, lambda: obstore.delete(self._client(bucket), name))

    @override
    def check_writable(self, folder: str) -> None:
        bucket = split_uri(folder)[0]
        if not self.honours_preconditions(folder) and bucket not in self._warned:
            self._warned.add(bucket)
            _log.warning(
                "%s://%s ignores write preconditions: of two runs that commit one partition at the same moment, the "
                "later silently replaces the earlier's index. Run one at a time",
                self._scheme,
                bucket,
            )

    @override
    def check_movable(self, source: str, target: str) -> None:
        """What may be written may be copied."""

    def honours_preconditions(self, folder: str) -> bool:
        """Whether of two writers that create one object the second is refused."""
        import obstore
        import obstore.exceptions as failures

        uri = f"{folder}/{PROBE}-{uuid.uuid4().hex}"
        bucket, name = split_plain(uri)

        def create() -> Any:
            return obstore.put(self._client(bucket), name, b"", mode="create", use_multipart=False)

        refusals = (failures.PreconditionError, failures.AlreadyExistsError)
        with contextlib.suppress(*refusals):  # when the answer to a first try was lost
            self._carry_out("write", uri, create)
        try:
            self._carry_out("write", uri, create)
        except refusals:
            return True
        finally:
            self.delete(uri)
        return False

    @override
    def scratch(self, folder: str) -> AbstractContextManager[Path]:
        """A directory for temporary files; what a killed process left there is the system's."""
        return temporary_directory()

    @override
    def sweep(self, folder: str) -> None:
        """Scratch space is the system's, which cleans it."""

    @override
    def exclusive(self, folder: str) -> AbstractContextManager[None]:
        """An object store has no locks: nobody is kept out."""
        return contextlib.nullcontext()

    # How.

    def _head(self, uri: str) -> Any:
        import obstore

        bucket, name = split_uri(uri)

        def head() -> Any:
            try:
                return obstore.head(self._client(bucket), name)
            except Exception as error:
                if is_refusal(error):  # the answer to a HEAD has no body to say why; that to a GET has
                    self._range(bucket, name, 0, 1, None)
                raise

        return self._carry_out("read", uri, head)

    def _range(self, bucket: str, name: str, start: int, stop: int, e_tag: str | None) -> Any:
        """The bytes from `start` to `stop`, or to the object's end; with `e_tag`, of that version only."""
        import obstore
        import obstore.exceptions as failures

        if stop <= start:
            return b""
        options: Any = {"range": (start, stop), **({"if_match": e_tag} if e_tag else {})}
        try:
            result = obstore.get(self._client(bucket), name, options=options)
            data = result.bytes()
        except failures.PreconditionError:
            raise ChangedError(f"{self._uri(bucket, name)} was replaced while it was read") from None
        except failures.GenericError as error:
            if is_past_the_end(error):
                return b""
            raise
        _check_length(data, min(stop, result.meta["size"]) - start)
        return data

    def _info(self, uri: str, meta: Any) -> ObjectInfo:
        return ObjectInfo(uri, meta["size"], self.version_of(meta), meta["last_modified"].timestamp())

    def _uri(self, bucket: str, name: str) -> str:
        return f"{self._scheme}://{bucket}/{name}"


class _Large(ShardmillError):
    """Too much for one request: a failure would begin it anew."""


def _check_length(data: Any, expected: int) -> None:
    if len(data) != expected:
        raise ConnectionError(f"{len(data)} of {expected} bytes came")
