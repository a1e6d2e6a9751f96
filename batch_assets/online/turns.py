"""Lookups of many keys take turns, so that one key waits for none of them.

A lookup of a thousand keys takes the loop 5 ms. A few clients who ask for them one after
the other, and don't wait for the answers, would make each round of the loop as long as all
of theirs together. So a large one is cut into pieces, and there is one piece in a round of
the loop, whoever asked for it. It knows no request.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from batch_assets.online.responses import shown_of
from batch_assets.snapshots.version import Answer, Version

# Half a millisecond. Lookups of as many keys at most wait for no turn.
PIECE = 100


class Turns:
    """The order in which large lookups are answered: one after the other, as they came."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def looked_up(
        self,
        version: Version,
        keys: Sequence[int | str],
        segments: Sequence[int | str | None] | None,
    ) -> tuple[list[Answer | None], list[dict[str, Any]]]:
        """Look keys up, all in one version; what was found of each, and how it is shown.

        Raises:
            SnapshotError: a key is of the wrong type, or a file is not whole.
        """
        if len(keys) <= PIECE:
            return _piece(version, keys, segments)
        found: list[Answer | None] = []
        shown: list[dict[str, Any]] = []
        async with self._turn:
            for at in range(0, len(keys), PIECE):
                some = slice(at, at + PIECE)
                its, as_shown = _piece(version, keys[some], segments and segments[some])
                found += its
                shown += as_shown
                await asyncio.sleep(0)
        return found, shown


def _piece(
    version: Version,
    keys: Sequence[int | str],
    segments: Sequence[int | str | None] | None,
) -> tuple[list[Answer | None], list[dict[str, Any]]]:
    found = version.get_many(keys, segments)
    return found, [shown_of(key, one) for key, one in zip(keys, found, strict=True)]
