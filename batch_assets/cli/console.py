"""Run a pipeline through Dagster, with its progress on this terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from batch_assets.launch.runner import PipelineRunner


@contextmanager
def open_runner(pipeline: str) -> Iterator[tuple["PipelineRunner", "Console"]]:
    """Open the project's Dagster instance, for one of its pipelines.

    Raises:
        PipelineError: there is no project here, or its definitions are wrong.
    """
    from rich.console import Console

    from batch_assets.launch.project import load_definitions, open_instance
    from batch_assets.launch.runner import PipelineRunner
    from batch_assets.progress import shown_on

    try:
        # A copy of the terminal: while a step runs, Dagster captures stderr itself.
        console = Console(file=os.fdopen(os.dup(sys.stderr.fileno()), "w"))
    except OSError:  # Whoever runs this in a process of theirs has put another there.
        console = Console(stderr=True)
    with open_instance() as instance, shown_on(console):
        yield PipelineRunner(load_definitions(), instance, pipeline), console
