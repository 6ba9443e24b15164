"""How a dataset's YAML file says where its raw images are."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from shardmill.errors import ConfigurationError
from shardmill.samples import image_format
from shardmill.sources.excludes import check_glob
from shardmill.sources.names import ComponentPatterns, Declared, check_component
from shardmill.spec import Spec
from shardmill.storage import checked_place, checked_uri


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


_PATTERN = {"type": "string"}
Patterns = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [_PATTERN, {"type": "array", "items": _PATTERN, "minItems": 1}]}),
]
"""One pattern, or several."""


URI = Annotated[str, AfterValidator(checked_uri)]


def _one_character(delimiter: str) -> str:
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"{delimiter!r} is no delimiter: give one character, such as ';' or \"\\t\"")
    return delimiter


Delimiter = Annotated[str, AfterValidator(_one_character)]


class MetadataSpec(Spec):
    """A table of metadata beside the source: its rows are joined to the samples by their keys."""

    table: URI
    """A CSV or Parquet file; `{partition}` stands for the partition's key."""
    key_column: str
    """Its column of keys, or of names of objects."""
    delimiter: Delimiter | None = None
    """Of a CSV, where its header does not tell."""


class SourceSpec(Spec):
    """Either a prefix that is listed (`uri`) or a table of URIs (`table`), with what stands for the partition."""

    uri: URI | None = None
    """Prefix below which every object belongs to the partition."""
    components: Annotated[dict[str, Patterns], Field(min_length=1)] | None = None
    """Component → pattern with `{key}`, or several, relative to the prefix. Objects that fit none are left out."""
    exclude: list[str] = []
    """Globs over names below the prefix, as in `.gitignore`: `*.txt`, `thumbs/`, `raw/**/old_*`. Such objects are left
    out.
    """
    exclude_defaults: bool = True
    """Whether the litter of operating systems is left out, too (`LITTER`)."""
    marker: str | None = None
    """Name, below the prefix, of an object that says that the partition is complete. It is no sample; the sensor waits
    for it.
    """
    table: URI | None = None
    """A CSV or Parquet file with one URI a row."""
    uri_column: str = "uri"
    key_column: str | None = None
    """The table's column of keys; by default the key comes from the URI's last part."""
    rows: Literal["one", "list"] = "one"
    """How several rows of one key are a sample: they say the same, or every column is a list of what each row says."""
    delimiter: Delimiter | None = None
    """Of a CSV, where its header does not tell."""
    allow: list[Annotated[str, AfterValidator(checked_place)]] = []
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
        if self.table is not None and (self.exclude or not self.exclude_defaults):
            raise ValueError("`exclude` is over a listing; leave rows out of the table")
        if self.table is not None and self.marker is not None:
            raise ValueError("a `marker` says that a listing is complete; a table needs none")
        return self

    @field_validator("components")
    @classmethod
    def _good_patterns(cls, components: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
        if components is not None:
            try:
                for component in components:
                    check_component(component)
                ComponentPatterns(components)
            except ConfigurationError as error:  # so that pydantic says which field of which file it was
                raise ValueError(str(error)) from error
        return components

    @field_validator("exclude")
    @classmethod
    def _good_globs(cls, globs: list[str]) -> list[str]:
        try:
            return [check_glob(glob) for glob in globs]
        except ConfigurationError as error:
            raise ValueError(str(error)) from error

    @property
    def declared(self) -> tuple[Declared, ...]:
        """The components that every sample has; empty if names alone say what there is."""
        return ComponentPatterns(self.components).components if self.components else ()

    def names_of(self, component: str) -> tuple[str, ...]:
        """Every name that an image can have which the dataset file calls so: of a declared component, all of its names.

        Of one that is not declared, or is no image, its name alone.
        """
        for each in self.declared:
            if component in (each.component, *each.names):
                return tuple(filter(image_format, each.names)) or (component,)
        return (component,)

    @property
    def cuts_names(self) -> bool:
        """Whether a key ends at the first dot of a name, whatever comes behind it."""
        return self.components is None and self.key_column is None
