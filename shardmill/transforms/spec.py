"""What a dataset's transform is: data, from YAML. Building it is `shardmill.transforms.apply`'s work."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from shardmill.errors import ConfigurationError
from shardmill.importing import import_path
from shardmill.sources.names import checked_component
from shardmill.spec import Spec

ComponentName = Annotated[str, AfterValidator(checked_component)]
"""What a component is called in shards."""


class Operation(Spec):
    """One step: a torchvision v2 operation, or a callable of the user's own.

    A custom callable is a `DecodedSample -> DecodedSample | Iterable[DecodedSample] | None` at
    `package.module:name`. Given a class, the arguments go to its constructor; given a function, to each call.
    """

    operation: str = Field(description="a class of torchvision.transforms.v2, or package.module:callable")
    arguments: dict[str, Any] = {}
    components: list[ComponentName] | None = Field(
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
        found = import_path(self.operation)
        if not callable(found):
            raise ConfigurationError(f"the transform {self.operation!r} is a {type(found).__name__}, not a callable")
        return found


class TransformSpec(Spec):
    """A transform of samples: operations in order.

    Example:
        {operations: [{operation: RandomResizedCrop, arguments: {size: 224}, components: [jpg, mask.png]},
                      {operation: RandomHorizontalFlip}],
         masks: [mask.png]}
    """

    operations: list[Operation]
    masks: list[ComponentName] = Field(
        default=[],
        description="components that are label maps: nearest neighbour, no change of colour, lossless",
    )
    seed: int = Field(default=0, description="of the random operations, with the sample's key and the epoch")
    epoch: int = 0
    format: Literal["jpg", "png", "webp"] | None = Field(
        default=None,
        description="what every image is written as, whatever it was stored as: `photo.png` becomes `photo.jpg`; masks "
        "stay as they are",
    )
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="of the components written as JPEG, WebP or AVIF")

    @property
    def named(self) -> list[str]:
        """The components that it names."""
        seen = (name for operation in self.operations for name in operation.components or [])
        return list(dict.fromkeys([*self.masks, *seen]))

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
