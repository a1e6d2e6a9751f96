"""Open a receiver that the YAML declares: each kind has a module here.

The module is imported when it is asked for, because its client library may be an extra.
"""

from importlib import import_module

from batch_assets.alerts.receivers.base import OpenReceiver
from batch_assets.errors import ConfigError
from batch_assets.spec.alerts import Receiver


def open_receiver(receiver: Receiver) -> OpenReceiver:
    """Open a receiver as declared.

    Raises:
        ConfigError: a variable is not set or holds nothing of use, or a client library is
            not installed.
    """
    try:
        module = import_module(f"{__package__}.{receiver.kind}")
    except ImportError as error:
        msg = (
            f"the receiver '{receiver.name}' needs a client library: {error}. "
            f"pip install 'batch-assets[{receiver.kind}]'"
        )
        raise ConfigError(msg) from error
    opened: OpenReceiver = module.open_receiver(receiver)
    return opened
