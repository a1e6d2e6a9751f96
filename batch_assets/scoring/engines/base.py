"""What an engine is: it loads a release once, and runs chunks somewhere.

It knows neither the day nor what becomes of the chunks.
"""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Protocol

from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.device import Device

if TYPE_CHECKING:
    from batch_assets.scoring.usage import Usage


class Engine(Protocol):
    """Loads a release once, then runs chunks and yields what each of them left.

    Whoever closes the generator ends the run: chunks in flight finish or are abandoned
    within the engine's grace period.
    """

    @property
    def device(self) -> Device:
        """Where and how the model runs; of several workers, the one with least memory."""

    @property
    def batch_rows(self) -> int:
        """Rows that the model gets at once: fewer than asked if memory ran out."""

    @property
    def workers(self) -> int:
        """How many chunks are scored at once."""

    @property
    def usage(self) -> "Usage | None":
        """How much of a CUDA device was used, where that is known."""

    def load(self, release: Release) -> None:
        """Choose the release; each worker verifies it before its first chunk."""

    def run(self, tasks: Sequence[ChunkTask]) -> Generator[Scored, None, None]:
        """Score chunks; yield each as it is done, in any order.

        The first error, an interrupt, or a caller that closes the generator ends the run.
        """
