"""Where `batch-assets` begins and ends, as a process of its own.

Python ends by taking apart, one by one, the million objects that a night has imported,
which takes a third of what the imports took. What is of use is done before that: threads
are waited for, what was registered for the exit is called, and what was printed is
written. So the process leaves then, with the code that the command ended with.
"""

import atexit
import os
import sys


def start() -> None:
    """Do what was typed, and end the process."""
    ending = _Ending()
    # The first to be registered is the last to be called.
    atexit.register(ending.leave)
    from batch_assets.cli.main import main

    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, int):
            ending.code = ended.code
        raise


class _Ending:
    """The code that a command ended with; None where Python has to say more than that."""

    code: int | None = None

    def leave(self) -> None:
        """Leave with the code of the command, if all that it printed is written."""
        if self.code is None:
            return
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return  # Python tells of it, and ends with another code.
        os._exit(self.code)


if __name__ == "__main__":
    start()
