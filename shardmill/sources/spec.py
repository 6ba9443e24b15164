"""How a dataset's YAML file says where its raw images are."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shardmill.errors import ConfigurationError
from shardmill.sources.names import ComponentPatterns, encode_component

Delimiter = Annotated[str, Field(min_length=1, max_length=1, pattern='[^"\r\n]')]


class MetadataSpec(BaseModel):
    """A table of metadata beside the source: its rows are joined to the samples by their keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    """A CSV or Parquet file; `{partition}` stands for the partition's key."""
    key_column: str
    """Its column of keys, or of names of objects."""
    delimiter: Delimiter | None = None
    """Of a CSV, where its header does not tell."""


class SourceSpec(BaseModel):
    """Either a prefix that is listed (`uri`) or a table of URIs (`table`), with what stands for the partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str | None = None
    """Prefix below which every object belongs to the partition."""
    components: dict[str, str] | None = None
    """Component → pattern with `{key}`, relative to the prefix. Objects that fit no pattern are left out."""
    marker: str | None = None
    """Name, below the prefix, of an object that says that the partition is complete. It is no sample; the sensor waits
    for it.
    """
    table: str | None = None
    """A CSV or Parquet file with one URI a row."""
    uri_column: str = "uri"
    key_column: str | None = None
    """The table's column of keys; by default the key comes from the URI's last part."""
    rows: Literal["one", "list"] = "one"
    """How several rows of one key are a sample: they say the same, or every column is a list of what each row says."""
    delimiter: Delimiter | None = None
    """Of a CSV, where its header does not tell."""
    allow: list[str] = []
    """Folders and buckets, beside the table's own, that its rows may lead to."""
    metadata: MetadataSpec | None = None
    """A table of the dataset's `columns`, joined to the samples by their keys."""

    @model_validator(mode="after")
    def _one_kind(self) -> "SourceSpec":
        if (self.uri is None) == (self.table is None):
            raise ValueError("give either `uri` (a prefix that is listed) or `table` (a file of URIs)")
        if self.table is not None and self.components is not None:
            raise ValueError("`components` are patterns over a listing; a table has none")
        if self.table is None and (self.allow or self.delimiter or self.rows != "one"):
            raise ValueError("`allow`, `delimiter` and `rows` are of a source that is a `table`")
        if self.table is not None and self.marker is not None:
            raise ValueError("a `marker` says that a listing is complete; a table needs none")
        return self

    @field_validator("components")
    @classmethod
    def _good_patterns(cls, components: dict[str, str] | None) -> dict[str, str] | None:
        if components is not None:
            try:
                ComponentPatterns(components)
            except ConfigurationError as error:  # so that pydantic says which field of which file it was
                raise ValueError(str(error)) from error
            for component in components:
                if encode_component(component) != component:
                    raise ValueError(f"component {component!r}: use at most 27 lower-case letters, digits and dots")
        return components
