"""Storage as a Dagster resource."""

import dagster as dg

from shardmill.storage import Storage


class StorageResource(dg.ConfigurableResource[None]):
    """The stores that URIs lead to."""

    def open(self) -> Storage:
        """Storage for this process."""
        return Storage()
