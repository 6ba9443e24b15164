"""The error for a model that there is not."""

import difflib

from shardmill.errors import ConfigurationError


def unknown_model(model: str, known: list[str]) -> ConfigurationError:
    """The error for a model that is not in `known`, with the names that come close."""
    close = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(known)[:20])}"
    return ConfigurationError(f"embedder {model!r} is unknown; {hint}")
