"""URIs as Shardmill writes them: `scheme://path`, the path literal (no percent-encoding), as fsspec reads them."""

import re
from pathlib import Path

from shardmill.errors import ConfigurationError


def absolute_uri(uri: str | Path) -> str:
    """A URI with its scheme. A bare path becomes `file://` and absolute, relative to the working directory.

    Raises:
        ConfigurationError: It names no bucket; or it looks like a URI and lacks a slash, as one does that `pathlib` had
            in hand.
    """
    text = str(uri)
    scheme, separator, path = text.partition("://")
    if not separator:
        if found := _HALF_A_URI.match(text):
            given = found[1].lower()
            meant = f"{_CALLED.get(given, given)}://{'/' * (given == 'file')}{text[found.end() :]}"
            raise ConfigurationError(f"{text!r} lacks a slash: {meant}, or ./{text} for a folder of that name")
        path, scheme = text, "file"
    if scheme != "file":
        if scheme in SCHEMES and not path.partition("/")[0]:
            raise ConfigurationError(f"{text!r} names no bucket")
        return text.rstrip("/")
    if separator and path[:1] not in ("/", "~"):
        host, slash, path = path.partition("/")
        if host != "localhost" and "{{" not in host:
            raise ConfigurationError(f"{text!r} names the host {host!r}: write file:/// and an absolute path")
        path = slash + path if host == "localhost" else f"{host}{slash}{path}"
    if "\0" in path:
        raise ConfigurationError(f"not a path: {path!r} holds a NUL byte")
    try:
        return f"file://{Path(path).expanduser().absolute()}"
    except RuntimeError as error:
        raise ConfigurationError(f"not a path: {path!r}: {error}") from error


SCHEMES = ("file", "gs", "s3")
_CALLED = {"gcs": "gs", "s3a": "s3", "s3n": "s3", "http": "gs or s3", "https": "gs or s3"}
_HALF_A_URI = re.compile("(file|gs|gcs|s3|s3a|s3n):/*", re.IGNORECASE)


def checked_uri(uri: str) -> str:
    """The URI or path as it is, if a dataset file may give it.

    Raises:
        ValueError: It is empty, no path, or on no store that is supported.
    """
    if not uri.strip():
        raise ValueError("is empty: give a path, or a URI with file://, gs:// or s3://")
    scheme, separator, _ = uri.partition("://")
    if separator and scheme not in SCHEMES and "{{" not in scheme:
        raise ValueError(unsupported(uri))
    try:
        absolute_uri(uri)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error
    return uri


def unsupported(uri: str) -> str:
    """What to say of a URI whose scheme is none of `SCHEMES`."""
    scheme = uri.partition("://")[0]
    called = _CALLED.get(scheme.lower())
    hint = f"; did you mean {called}://?" if called else ""
    return f"{uri!r} is on no store that is supported ({', '.join(f'{name}://' for name in SCHEMES)}){hint}"


def checked_place(uri: str) -> str:
    """The URI or path as it is, if a dataset file may say by it that all below may be read.

    Raises:
        ValueError: As `checked_uri`; or it is relative, or a glob.
    """
    checked_uri(uri)
    if "://" not in uri and not uri.startswith(("/", "~", "{{")):
        raise ValueError(f"{uri!r} is relative: give an absolute path, or a bucket with gs:// or s3://")
    if {"*", "?"} & set(uri):
        raise ValueError(f"{uri!r} is a glob, and all below a folder or a bucket is allowed: give the folder")
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
