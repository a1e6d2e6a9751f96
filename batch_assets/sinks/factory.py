"""Open a sink that the YAML declares: each kind has a module here.

The module is imported when it is asked for, because its client library is an extra.
"""

import logging
from importlib import import_module

from batch_assets.errors import ConfigError
from batch_assets.sinks.base import Sink
from batch_assets.spec import EXPERIMENTAL, Target

log = logging.getLogger(__name__)


def open_sink(target: Target, pipeline: str) -> Sink:
    """Open a pipeline's sink.

    Args:
        target: as declared.
        pipeline: its name, which names what is stored.

    Raises:
        ConfigError: a variable is not set, or the client library is not installed.
        SinkError: the store can't be reached, or does not let us in.
    """
    try:
        module = import_module(f"{__package__}.{target.kind}")
    except ImportError as error:
        msg = (
            f"the sink '{target.name}' needs a client library: {error}. "
            f"pip install 'batch-assets[{target.kind}]'"
        )
        raise ConfigError(msg) from error
    if target.kind in EXPERIMENTAL:
        log.warning(
            "the sink '%s' is experimental: %s", target.name, EXPERIMENTAL[target.kind]
        )
    sink: Sink = module.open_sink(target, pipeline)
    return sink
