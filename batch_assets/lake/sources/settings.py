"""The settings of a source's client, and the secrets among them.

The YAML names environment variables, never what is in them. It knows no client.
"""

import os
import re
from collections.abc import Mapping

from batch_assets.environment import secret

# In an address: user:password@host. What may be one is hidden, too.
PASSWORD = re.compile(r"(?<=://)\S*:\S*@")
HIDDEN = "***"


def with_secrets(
    plain: Mapping[str, str], from_env: Mapping[str, str], what: str
) -> dict[str, str]:
    """Return settings, and beside them those that lie in environment variables.

    Args:
        plain: each setting and its value.
        from_env: each setting and the variable that holds its value.
        what: whose they are, for the error.

    Raises:
        ConfigError: a variable is not set.
    """
    return dict(plain) | {
        name: secret(variable, what, f", for its '{name}'")
        for name, variable in from_env.items()
    }


def without_secrets(text: str, from_env: Mapping[str, str]) -> str:
    """Return an error in one line, without the values of those variables.

    Args:
        text: what a client said.
        from_env: each setting and the variable that holds its value.
    """
    values = {os.environ.get(variable, "") for variable in from_env.values()}
    # The longest first: one may be a piece of another.
    for value in sorted(values - {""}, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return " ".join(PASSWORD.sub(f"{HIDDEN}@", text).split())
