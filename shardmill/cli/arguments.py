"""Arguments that the commands share: `FILE [PARTITION…]`, credentials, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shardmill.dataset import Dataset
    from shardmill.storage import Storage

DatasetFile = Annotated[Path, typer.Argument(help="the dataset's YAML file (a defs.yaml)", show_default=False)]
Partitions = Annotated[
    list[str] | None, typer.Argument(metavar="[PARTITION]...", help="default: all", show_default=False)
]
CredentialsFile = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        envvar="SHARDMILL_CREDENTIALS",
        help="a YAML file with credentials for buckets; default: the clouds' own",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="for scripts: a JSON object a line")]


def open_storage(credentials: Path | None) -> Storage:
    """The storage that the option asks for.

    Raises:
        ConfigurationError: The credentials are none.
    """
    from shardmill.storage import Storage, load_credentials

    return Storage(load_credentials(credentials) if credentials else ())


def open_dataset(file: Path, credentials: Path | None) -> Dataset:
    """The dataset that the arguments name.

    Raises:
        ConfigurationError: The file declares no valid dataset, or the credentials are none.
    """
    from shardmill.dataset import load_dataset

    return load_dataset(file, open_storage(credentials))


def chosen(dataset: Dataset, partitions: Sequence[str] | None) -> list[str]:
    """The partitions that are named, each once, or all that are known.

    Raises:
        ConfigurationError: There are none.
    """
    return list(dict.fromkeys(partitions)) if partitions else dataset.known_partitions()
