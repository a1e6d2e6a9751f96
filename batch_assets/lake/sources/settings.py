"""The settings of a source's client, and the secrets among them.

The YAML names environment variables, never what is in them. It knows no client.
"""

from collections.abc import Mapping

from batch_assets.environment import secret


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
