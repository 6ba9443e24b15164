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
