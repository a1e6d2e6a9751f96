"""Begin without Python's collector: nearly all that a start makes stays until the end.

It looks through all objects again and again while modules are imported, finds next to
nothing, and takes a tenth of what a command costs before its work.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import and load; garbage is looked for again from the end of the block on.

    What is there by then counts as old, as if it had been looked through.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.unfreeze()
            gc.enable()
