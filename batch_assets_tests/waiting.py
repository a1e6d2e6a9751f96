"""Wait for what another thread or process does."""

import time
from collections.abc import Callable
from typing import Any


def until(
    condition: Callable[[], Any], seconds: float = 60, every: float = 0.01
) -> Any:
    """Wait for a true value, and give it; a test that waits in vain fails."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(every)
    return value
