"""Local disks: rename publishes, `flock` excludes."""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import override

from shardmill.errors import (
    AccessDeniedError,
    ChangedError,
    ConfigurationError,
    ConflictError,
    DanglingLinkError,
    StorageError,
    UnreadableError,
)
from shardmill.storage.objects import FolderOf, ObjectInfo, PassedOver
from shardmill.storage.store import Store
from shardmill.storage.uris import join_uri
from shardmill.temporary import temporary_directory

SCRATCH = ".shardmill-scratch"
LOCK = ".shardmill-lock"


class LocalStore(Store):
    """A `Store` over `file://` URIs on a POSIX file system."""

    excludes = True
    identity = "the user of this process"

    @override
    def list(
        self,
        folder: str,
        after: str | None = None,
        first_of: FolderOf | None = None,
        passed_over: PassedOver | None = None,
    ) -> Iterator[ObjectInfo]:
        """In the order of the names' bytes; our scratch directories and locks are left out.

        Symbolic links are followed, but for one to a folder that it is in. One that leads nowhere is listed, so that it
        is missed when it is read and not lost silently.

        Raises:
            StorageError: A folder cannot be read.
        """
        return _Listing(os.fsencode(after or ""), first_of, passed_over or _raise_errors).below(str(_path(folder)))

    @override
    def stat(self, uri: str) -> ObjectInfo | None:
        """Only a regular file is an object."""
        try:
            status = _path(uri).stat()
        except OSError as error:
            if error.errno in _NO_SUCH_FILE:
                return None
            raise _why_it_cannot_be_read(uri, error) from None
        return _info(uri, status) if stat.S_ISREG(status.st_mode) else None

    @override
    def open(self, uri: str) -> tuple[BinaryIO, ObjectInfo]:
        try:
            stream = _path(uri).open("rb")
        except OSError as error:
            raise _why_it_cannot_be_read(uri, error) from None
        return stream, _info(uri, os.fstat(stream.fileno()))

    @override
    def read_version(self, uri: str) -> tuple[bytes, ObjectInfo]:
        stream, info = self.open(uri)
        try:
            with stream:
                data = stream.read()
                after = _info(uri, os.fstat(stream.fileno()))
        except OSError as error:
            raise StorageError(f"cannot read {uri}: {error}") from error
        if after.version != info.version or len(data) != info.size:
            raise ChangedError(f"{uri} was written to while it was read: {info.size} bytes were {len(data)} at the end")
        return data, info

    @override
    def read_range(self, uri: str, offset: int, length: int) -> bytes:
        stream, _ = self.open(uri)
        with stream:
            stream.seek(offset)
            return stream.read(length)

    @override
    def publish(self, file: Path, uri: str) -> None:
        """The bytes are on the disk before the name is."""
        target = _path(uri)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            file.replace(target)
        except OSError as error:
            raise StorageError(f"cannot write {uri}: {error.strerror}") from error

    @override
    def replace(self, uri: str, data: bytes, expected: str | None) -> str:
        """A new version is greater than all before it."""
        target = _path(uri)
        with _named(f"cannot write {uri}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target.parent), self.scratch(f"file://{target.parent}") as scratch:
                present = self.stat(uri)
                if (present.version if present else None) != expected:
                    raise ConflictError(f"{uri} was replaced by another writer; nothing was changed")
                file = scratch / "data"
                file.write_bytes(data)
                if present is not None:
                    _make_younger(file, target)
                self.publish(file, uri)
                return _info(uri, target.stat()).version

    @override
    def copy(self, source: str, target: str) -> None:
        with self.scratch(source.rpartition("/")[0]) as scratch:
            try:
                shutil.copyfile(_path(source), scratch / "copy")
            except FileNotFoundError:
                raise FileNotFoundError(f"{source} does not exist") from None
            except OSError as error:
                raise StorageError(f"cannot copy {source} to {target}: {error.strerror}") from error
            self.publish(scratch / "copy", target)

    @override
    def move(self, source: str, target: str) -> None:
        """A rename: both have to be on one file system."""
        file, place = _path(source), _path(target)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.utime(file)
            file.replace(place)
        except FileNotFoundError:
            raise FileNotFoundError(f"{source} does not exist") from None
        except OSError as error:
            raise StorageError(f"cannot move {source} to {target}: {error.strerror}") from error

    @override
    def delete(self, uri: str) -> None:
        with _named(f"cannot delete {uri}"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _path(uri).unlink()

    @override
    def check_writable(self, folder: str) -> None:
        with self.scratch(folder):
            pass

    @override
    def check_movable(self, source: str, target: str) -> None:
        """Makes both folders; a rename stays within one file system."""
        devices = []
        for folder in (_path(source), _path(target)):
            with _named(f"cannot make file://{folder}"):
                folder.mkdir(parents=True, exist_ok=True)
                devices.append(folder.stat().st_dev)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise AccessDeniedError(f"cannot write below file://{folder}: {self.identity} may not")
        if devices[0] != devices[1]:
            raise ConfigurationError(
                f"{source} and {target} are on two file systems, and what is made is moved from one to the other: "
                "keep a dataset's folders on one"
            )

    def honours_preconditions(self, folder: str) -> bool:  # noqa: ARG002
        """Yes: a lock decides."""
        return True

    @override
    def filesystem(self) -> Any:
        import fsspec

        return fsspec.filesystem("file")

    @override
    @contextmanager
    def scratch(self, folder: str) -> Iterator[Path]:
        """It lies on the same file system, so that publishing is a rename."""
        with contextlib.ExitStack() as held:
            with _named(f"cannot write below {folder}"):
                directory = held.enter_context(_held_directory(_path(folder) / SCRATCH))
            yield directory

    @override
    def sweep(self, folder: str) -> None:
        with _named(f"cannot sweep {folder}"):
            for directory, names, _ in os.walk(_path(folder)):
                if SCRATCH in names:
                    names.remove(SCRATCH)
                    parent = Path(directory, SCRATCH)
                    with _locked(parent):
                        _sweep(parent)

    @override
    @contextmanager
    def exclusive(self, folder: str) -> Iterator[None]:
        path = _path(folder)
        with contextlib.ExitStack() as held:
            with _named(f"cannot lock {folder}"):
                path.mkdir(parents=True, exist_ok=True)
                held.enter_context(_locked(path / LOCK, os.O_RDWR | os.O_CREAT))
            yield


NOT_A_FILE = "not a file"
"""What is said of a pipe, a socket or a device."""
LOOP = "loop of links"
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _why_it_cannot_be_read(uri: str, error: OSError) -> Exception:
    if error.errno == errno.ENOENT and _path(uri).is_symlink():
        return DanglingLinkError(f"{uri} is a link that leads nowhere")
    if error.errno in _NO_SUCH_FILE:
        return FileNotFoundError(f"{uri} does not exist")
    if error.errno == errno.ELOOP:
        return UnreadableError(f"{uri} is a link that leads round in a circle")
    if error.errno in (errno.EACCES, errno.EPERM):
        return UnreadableError(f"the user of this process may not read {uri}")
    return StorageError(f"cannot read {uri}: {error.strerror}")


def _info(uri: str, status: os.stat_result) -> ObjectInfo:
    version = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return ObjectInfo(uri, status.st_size, version, status.st_mtime_ns / 1e9)


class _Listing:
    """One walk over a tree, which reads no directory twice."""

    def __init__(self, after: bytes, first_of: FolderOf | None, pass_over: PassedOver) -> None:
        self._after, self._first_of, self._pass_over = after, first_of, pass_over
        self._done: str | None = None
        """The folder whose first object has been given, with its slash."""

    def below(self, directory: str) -> Iterator[ObjectInfo]:
        prefix = f"{directory.removesuffix('/')}/"
        try:
            names = _names(directory)
        except StorageError as error:
            self._pass_over(f"file://{prefix}", error)
            return
        for name in names:
            path = prefix + name
            uri = f"file://{path}"
            if self._done and uri.startswith(self._done):
                return
            if name.endswith("/"):
                if not self._is_left(uri) and not self._after.startswith(os.fsencode(uri)):
                    continue
                if os.path.islink(path[:-1]) and _is_in_itself(path[:-1]):  # noqa: PTH114
                    self._pass_over(uri[:-1], LOOP)
                else:
                    yield from self.below(path[:-1])
            elif self._is_left(uri):
                status = _status(path)
                if status is not None and _is_special(status.st_mode):
                    self._pass_over(uri, NOT_A_FILE)
                elif status is not None:
                    yield _info(uri, status)
                    folder = self._first_of(uri) if self._first_of else None
                    self._done = folder and join_uri(folder, "")

    def _is_left(self, uri: str) -> bool:
        return not self._after or os.fsencode(uri) > self._after


def _names(directory: str) -> list[str]:
    """What is in a directory, in the order of the bytes; names of directories end with a slash.

    So a directory sorts as its contents do: `a-b` and `a.c` come before what is in `a`, `a0` after it.
    """
    try:
        with os.scandir(directory) as entries:
            names = [f"{e.name}/" if _is_folder(e) else e.name for e in entries if e.name not in (SCRATCH, LOCK)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot list file://{directory}: {error.strerror}") from error
    return sorted(names, key=os.fsencode)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where nobody may look: it says so when it is read
        return False


def _is_in_itself(link: str) -> bool:
    """Whether a link to a folder leads to one in which it is: a walk would never end."""
    target = os.stat(link)  # noqa: PTH116
    return any(os.path.samestat(target, above.stat()) for above in Path(link).parents)


def _raise_errors(_: str, why: str | StorageError) -> None:
    if isinstance(why, StorageError):
        raise why


def _status(path: str) -> os.stat_result | None:
    """What stands there; None if it went between the listing and the look: it was never there for us.

    A listing looks at every object of a partition, and a `Path` of each would cost more than the look.
    """
    try:
        return os.stat(path)  # noqa: PTH116
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114
            return os.lstat(path)
        if isinstance(error, FileNotFoundError):
            return None
        raise StorageError(f"cannot look at file://{path}: {error.strerror}") from error


def _is_special(mode: int) -> bool:
    """Whether it is a pipe, a socket or a device: no object, and reading one may never end."""
    return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))


def _make_younger(file: Path, than: Path) -> None:
    """Give `file` a later mtime: two of one size, written within one tick of the clock, must not be one version."""
    oldest = than.stat().st_mtime_ns + 1
    status = file.stat()
    if status.st_mtime_ns < oldest:
        os.utime(file, ns=(status.st_atime_ns, oldest))


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors of the operating system as StorageErrors that say what failed."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror}") from error


@contextmanager
def _locked(path: Path, flags: int = os.O_RDONLY) -> Iterator[None]:
    """Hold an exclusive lock on a file or directory. The kernel lets go of it when the process dies."""
    try:
        descriptor = os.open(path, flags, 0o666)  # less the umask, so that a group that shares the folder shares it
    except PermissionError:  # made by another user; a lock needs no more than this, but on network file systems
        descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _held_directory(parent: Path) -> Iterator[Path]:
    """A new directory below `parent`; the lock on it says that it is in use.

    `parent` itself stays for ever: the lock on it is only worth something while its name means one directory.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with _locked(parent):  # nobody sweeps between the making of ours and its lock
            _sweep(parent)
            directory = held.enter_context(temporary_directory(parent, prefix=""))
            held.enter_context(_locked(directory))
        yield directory


def _sweep(parent: Path) -> None:
    """Remove the scratch directories that nobody holds any more."""
    for directory in parent.iterdir():
        with contextlib.suppress(FileNotFoundError, PermissionError):  # gone already, or another user's
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            except BlockingIOError:
                pass
            finally:
                os.close(descriptor)
