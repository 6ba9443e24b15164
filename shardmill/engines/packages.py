"""What has to be the same wherever shards of one run are made: bytes depend on it, and pickled code."""

from shardmill.errors import ConfigurationError
from shardmill.versions import software_versions


def compared_versions() -> dict[str, str]:
    """Package → version, and Python's without its last number."""
    versions = software_versions()
    return {**versions, "python": ".".join(versions["python"].split(".")[:2])}


def check_same_packages(expected: dict[str, str]) -> None:
    """Find out whether what a worker makes here would be the same as where the run was started.

    Raises:
        ConfigurationError: Other versions are installed here than `expected`, which are there.
    """
    found = compared_versions()
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if names:
        differ = ", ".join(f"{name} {found.get(name, '(none)')}, not {expected.get(name, '(none)')}" for name in names)
        raise ConfigurationError(
            f"a worker has other packages than the process that started the run: {differ}. Give both the same, by one "
            "image for all"
        )
