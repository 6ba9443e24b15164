"""URIs as Shardmill writes them: `scheme://path`, the path literal (no percent-encoding), as fsspec reads them."""

from pathlib import Path

from shardmill.errors import ConfigurationError


def absolute_uri(uri: str | Path) -> str:
    """A URI with its scheme. A bare path becomes `file://` and absolute, relative to the working directory."""
    text = str(uri)
    scheme, separator, path = text.partition("://")
    if not separator:
        path, scheme = text, "file"
    if scheme != "file":
        return text.rstrip("/")
    if "\0" in path:
        raise ConfigurationError(f"not a path: {path!r} holds a NUL byte")
    try:
        return f"file://{Path(path).expanduser().absolute()}"
    except RuntimeError as error:
        raise ConfigurationError(f"not a path: {path!r}: {error}") from error


SCHEMES = ("file", "gs", "s3")
_CALLED = {"gcs": "gs", "s3a": "s3", "s3n": "s3", "http": "gs or s3", "https": "gs or s3"}


def checked_uri(uri: str) -> str:
    """The URI or path as it is, if a dataset file may give it.

    Raises:
        ValueError: It is empty, no path, or on no store that is supported.
    """
    if not uri.strip():
        raise ValueError("is empty: give a path, or a URI with file://, gs:// or s3://")
    scheme, separator, path = uri.partition("://")
    if separator and scheme not in SCHEMES and "{{" not in scheme:
        hint = f"; did you mean {_CALLED[scheme]}://?" if scheme in _CALLED else ""
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"{uri!r} is on no store that is supported ({known}){hint}")
    if separator and scheme != "file" and not path.strip("/"):
        raise ValueError(f"{uri!r} names no bucket")
    try:
        absolute_uri(uri)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error
    return uri


def join_uri(folder: str, name: str) -> str:
    """The URI of `name` inside `folder`."""
    return f"{folder.removesuffix('/')}/{name}"


def relative_to(folder: str, uri: str) -> str:
    """The part of `uri` below `folder`.

    Raises:
        ValueError: It is not below.
    """
    prefix = join_uri(folder, "")
    if not uri.startswith(prefix):
        raise ValueError(f"{uri} is not below {folder}")
    return uri.removeprefix(prefix)
