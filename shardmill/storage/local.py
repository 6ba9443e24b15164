"""Local disks: rename publishes, `flock` excludes."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shardmill.errors import ConflictError, StorageError
from shardmill.storage.storage import ObjectInfo

SCRATCH = ".shardmill-scratch"
LOCK = ".shardmill-lock"


class LocalStore:
    """A `Store` over `file://` URIs on a POSIX file system."""

    def list(self, folder: str) -> Iterator[ObjectInfo]:
        """See `Storage.list`. Our scratch directories and locks are left out; symbolic links are followed."""
        pending = [_path(folder)]
        while pending:
            directory = pending.pop()
            try:
                entries = os.scandir(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StorageError(f"cannot list file://{directory}: {error.strerror}") from error
            with entries:
                for entry in entries:
                    if entry.name in (SCRATCH, LOCK):
                        continue
                    if entry.is_dir():
                        pending.append(Path(entry.path))
                        continue
                    # A file that goes between the listing and the look was never there for us.
                    with contextlib.suppress(FileNotFoundError):
                        yield _info(f"file://{entry.path}", entry.stat())

    def stat(self, uri: str) -> ObjectInfo | None:
        """See `Storage.stat`."""
        try:
            return _info(uri, _path(uri).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]:
        """See `Storage.open`."""
        try:
            stream = _path(uri).open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"cannot read {uri}: {error.strerror}") from error
        return stream, _info(uri, os.fstat(stream.fileno()))

    def publish(self, file: Path, uri: str) -> None:
        """See `Storage.publish`. The bytes are on the disk before the name is."""
        target = _path(uri)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            file.replace(target)
        except OSError as error:
            raise StorageError(f"cannot write {uri}: {error.strerror}") from error

    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        """See `Storage.replace`."""
        target = _path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent), self.scratch(f"file://{target.parent}") as scratch:
            present = self.stat(uri)
            if (present.version if present else None) != expected:
                raise ConflictError(f"{uri} was replaced by another writer; nothing was changed")
            file = scratch / "data"
            file.write_bytes(data)
            self.publish(file, uri)
            return _info(uri, target.stat()).version

    def delete(self, uri: str) -> None:
        """See `Storage.delete`."""
        _path(uri).unlink(missing_ok=True)

    @contextmanager
    def scratch(self, folder: str) -> Iterator[Path]:
        """See `Storage.scratch`. It lies on the same file system, so that publishing is a rename."""
        parent = _path(folder) / SCRATCH
        try:
            directory, lock = _held_directory(parent)
        except OSError as error:
            raise StorageError(f"cannot write below {folder}: {error.strerror}") from error
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)
            with contextlib.suppress(OSError):  # others may still be at work in it
                parent.rmdir()

    @contextmanager
    def exclusive(self, folder: str) -> Iterator[None]:
        """See `Storage.exclusive`."""
        path = _path(folder)
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path / LOCK, os.O_RDWR | os.O_CREAT):
            yield


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _info(uri: str, status: os.stat_result) -> ObjectInfo:
    version = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return ObjectInfo(uri, status.st_size, version, status.st_mtime_ns / 1e9)


@contextmanager
def _locked(path: Path, flags: int = os.O_RDONLY) -> Iterator[None]:
    """Hold an exclusive lock on a file or directory. The kernel lets go of it when the process dies."""
    descriptor = os.open(path, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _held_directory(parent: Path) -> tuple[Path, int]:
    """A new directory below `parent`, and the descriptor whose lock says that it is in use."""
    while True:
        parent.mkdir(parents=True, exist_ok=True)
        try:
            with _locked(parent):  # nobody sweeps between the making of ours and its lock
                _sweep(parent)
                directory = Path(tempfile.mkdtemp(dir=parent))
                lock = os.open(directory, os.O_RDONLY)
                fcntl.flock(lock, fcntl.LOCK_EX)
                return directory, lock
        except FileNotFoundError:
            continue  # the last user before us removed `parent` under our hands


def _sweep(parent: Path) -> None:
    """Remove the scratch directories that nobody holds any more."""
    for directory in parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            except BlockingIOError:
                pass
            finally:
                os.close(descriptor)
