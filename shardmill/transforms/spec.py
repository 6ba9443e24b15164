"""What a dataset's transform is: data, from YAML. Building it is `shardmill.transforms.apply`'s work."""

import importlib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shardmill.errors import ConfigurationError


class Operation(BaseModel):
    """One step: a torchvision v2 operation, or a callable of the user's own.

    A custom callable is a `DecodedSample -> DecodedSample | Iterable[DecodedSample] | None` at
    `package.module:name`. Given a class, the arguments go to its constructor; given a function, to each call.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: str = Field(description="a class of torchvision.transforms.v2, or package.module:callable")
    arguments: dict[str, Any] = {}
    components: list[str] | None = Field(
        default=None,
        min_length=1,
        description="the images and masks it sees, jointly; by default all of the sample",
    )

    @property
    def is_custom(self) -> bool:
        """Whether it is an import path rather than torchvision's."""
        return ":" in self.operation

    def load(self) -> Any:
        """Import the custom callable.

        Raises:
            ConfigurationError: It cannot be imported, or is not callable.
        """
        module_name, _, attribute = self.operation.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(
                f"cannot import the transform {self.operation!r}: {error}. "
                "Write it as package.module:callable, importable where the shards are made"
            ) from error
        if not callable(found):
            raise ConfigurationError(f"the transform {self.operation!r} is a {type(found).__name__}, not a callable")
        return found


class TransformSpec(BaseModel):
    """A transform of samples: operations in order.

    Example:
        {operations: [{operation: RandomResizedCrop, arguments: {size: 224}, components: [jpg, mask.png]},
                      {operation: RandomHorizontalFlip}],
         masks: [mask.png]}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    operations: list[Operation]
    masks: list[str] = Field(
        default=[],
        description="components that are label maps: nearest neighbour, no change of colour, lossless",
    )
    seed: int = Field(default=0, description="of the random operations, with the sample's key and the epoch")
    epoch: int = 0
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="of the components written as JPEG, WebP or AVIF")

    def fingerprint_parameters(self) -> dict[str, Any]:
        """All that determines the output for given samples, as JSON values.

        The code of a custom callable is represented by its import path and its `code_version` attribute; one
        that changes its behaviour without changing its `code_version` goes unnoticed.

        Raises:
            ConfigurationError: A custom callable cannot be imported.
        """
        versions = {
            operation.operation: getattr(operation.load(), "code_version", None)
            for operation in self.operations
            if operation.is_custom
        }
        return {**self.model_dump(mode="json"), "code_versions": versions}
