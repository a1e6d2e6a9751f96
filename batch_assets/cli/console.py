"""Run a pipeline through Dagster, with its progress on this terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from batch_assets.cli.collector import uncollected

if TYPE_CHECKING:
    from rich.console import Console

    from batch_assets.launch.runner import PipelineRunner


@contextmanager
def open_runner(pipeline: str) -> Iterator[tuple["PipelineRunner", "Console"]]:
    """Open the project's Dagster instance, for one of its pipelines.

    Raises:
        PipelineError: there is no project here, or its definitions are wrong.
    """
    with ExitStack() as opened:
        with uncollected():
            from rich.console import Console

            from batch_assets.launch.project import load_definitions, open_instance
            from batch_assets.launch.runner import PipelineRunner
            from batch_assets.progress import shown_on

            try:
                # While a step runs, Dagster captures stderr itself: a copy of it.
                terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w")
                console = Console(file=opened.enter_context(terminal))
            except OSError:  # Whoever runs this in a process of theirs has put another.
                console = Console(stderr=True)
            instance = opened.enter_context(open_instance())
            opened.enter_context(shown_on(console))
            definitions = load_definitions()
        yield PipelineRunner(definitions, instance, pipeline), console
