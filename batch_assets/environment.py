"""What is told to this machine alone: secrets, each in an environment variable.

It knows nothing of what a secret is for.
"""

import os

from batch_assets.errors import ConfigError


def secret(variable: str, whose: str, purpose: str = "") -> str:
    """Return what an environment variable holds; it goes to a client alone.

    Args:
        variable: its name.
        whose: who needs it, for the error.
        purpose: what it is needed for, if that is not clear.

    Raises:
        ConfigError: it is not set.
    """
    value = os.environ.get(variable)
    if not value:
        msg = f"{whose} needs the environment variable {variable}{purpose}; set it"
        raise ConfigError(msg)
    return value
