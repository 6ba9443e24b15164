"""What may leave this process with a shard: the names of secrets, and never a secret."""

from shardmill.errors import ConfigurationError
from shardmill.storage import Storage


def check_that_only_names_travel(storage: Storage, where: str) -> None:
    """Refuse credentials that hold a secret themselves: what engines hand on, others store and see.

    Raises:
        ConfigurationError: Some do; `where` says where they would get to.
    """
    for each in storage.credentials:
        for field in each.values_held:
            raise ConfigurationError(
                f"the credentials for {each.prefix} hold {field} itself, and only names travel to {where}: write "
                f"{field}: {{env: NAME}}, and set that variable here and there"
            )
