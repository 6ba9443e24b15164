"""Errors of our own. Each says what went wrong, where, and what to do."""


class ShardmillError(Exception):
    """Base of every error that Shardmill raises on purpose."""

    final = False
    """Whether trying the same again cannot help."""


class ConfigurationError(ShardmillError):
    """A dataset file, a parameter or the installation is wrong."""

    final = True


class NothingCommittedError(ShardmillError, FileNotFoundError):
    """Nothing is committed where it is looked for, or not at the digest that was asked for; names the folder."""

    final = True


class StorageError(ShardmillError):
    """A store did not do what was asked; names the URI."""


class AccessDeniedError(StorageError):
    """A store refuses; names who asked and the permission that is missing."""

    final = True


class ChangedError(StorageError):
    """An object was written to while it was read; names it."""


class UnreadableError(StorageError):
    """One object is there and cannot be read, as it is; names it, and why."""


class DanglingLinkError(UnreadableError):
    """A link leads nowhere; names it."""


class ArchivedError(StorageError):
    """An object is in a class of storage that has to be restored before it can be read; names it."""


class EncryptedError(StorageError):
    """An object is encrypted with a key that cannot be used; names it."""


class ConflictError(StorageError):
    """Another writer replaced the object first; nothing of ours was published in its place. Plan again."""


class SupersededError(ConflictError):
    """What was being read belongs to a commit that another one has replaced, and is gone. Plan again."""


class CorruptionError(ShardmillError):
    """Stored bytes are not what their index says."""

    final = True


class EngineError(ShardmillError):
    """A stage failed on a shard, or a worker died; names the shard."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message, final)  # both in `args`, so that it pickles
        self.final = final

    def __str__(self) -> str:
        return str(self.args[0])


class SampleError(ShardmillError):
    """Something failed on a sample that says nothing against it, a lack of memory say; names it and its raw object."""


class DeviceError(ShardmillError):
    """`nvidia-smi` is there, and fails to say which CUDA devices are; says what it said."""


class ServerError(ShardmillError):
    """A transform server cannot be reached, or refuses; names it, and says what it said."""

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(message, status)  # both in `args`, so that it pickles
        self.final = status in (400, 401, 403, 404, 405, 413)

    def __str__(self) -> str:
        return str(self.args[0])


class TooManyRejectsError(ShardmillError):
    """A partition's rejects exceed the dataset's `max_reject_ratio`; nothing was committed."""

    def __init__(self, message: str, final: bool = True) -> None:
        super().__init__(message, final)  # both in `args`, so that it pickles
        self.final = final

    def __str__(self) -> str:
        return str(self.args[0])


class Rejected(ShardmillError):
    """A sample cannot be processed. The stage counts and lists it, and goes on.

    `reason` is one of a few short phrases, so that rejects can be counted by it; `detail` is for the reader;
    `may_pass` says that the same sample may be processed another time, although nothing of it has changed.
    """

    def __init__(self, reason: str, detail: str = "", may_pass: bool = False) -> None:
        super().__init__(reason, detail, may_pass)  # all in `args`, so that it pickles
        self.reason = reason
        self.detail = detail
        self.may_pass = may_pass

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
