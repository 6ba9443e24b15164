"""`embed-text`: queries as vectors, to search a table of embeddings with."""

from __future__ import annotations

from typing import Annotated

import typer

from shardmill.cli.arguments import CredentialsFile, DatasetFile, Json, open_dataset
from shardmill.cli.output import Output


def embed_text(
    file: DatasetFile,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="what is searched for", show_default=False)],
    embedder: Annotated[
        str | None, typer.Option(help="which of the dataset's embedders, if it has several", show_default=False)
    ] = None,
    credentials: CredentialsFile = None,
    as_json: Json = False,
) -> None:
    """Print the vector of each text, a line each: in the space of the dataset's table of embeddings."""
    output = Output(as_json)
    with output.readable_errors():
        vectors = open_dataset(file, credentials).embed_text(text, embedder)
        for each, vector in zip(text, vectors.tolist(), strict=True):
            output.result(" ".join(map(str, vector)), text=each, embedding=vector)
