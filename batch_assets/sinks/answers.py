"""Answers of a client of a remote store: outputs put together, without what is denied.

A store keeps numbers, and beside them the denylist. It is read anew when it is a second
old, so that a client shows an item no longer than that after it was denied there. It
knows no store.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from batch_assets.sinks.base import SinkVersion
from batch_assets.snapshots.denylist import Denylist
from batch_assets.snapshots.fallback import Fallbacks
from batch_assets.snapshots.forms import Assembly
from batch_assets.snapshots.version import Answer

# How long a client shows what is denied, at most.
DENYLIST_SECONDS = 1.0


@dataclass(frozen=True)
class _Opened:
    """How the rows of one version are put together, without the items of one list."""

    about: SinkVersion
    denylist: Denylist
    assembly: Assembly
    fallbacks: Fallbacks


class Answers:
    """Puts the outputs of keys together; each client has its own."""

    def __init__(self, read_denylist: Callable[[], Denylist]) -> None:
        """Nothing is read yet.

        Args:
            read_denylist: asks the store.
        """
        self._read_denylist = read_denylist
        self._denylist = Denylist()
        self._read_at = float("-inf")
        self._opened: _Opened | None = None

    def of(
        self,
        about: SinkVersion,
        key: int | str,
        outputs: Sequence[Any] | None,
        segment: int | str | None,
    ) -> Answer | None:
        """Return the answer for a key of a version.

        Args:
            about: the version.
            key: as it was looked up.
            outputs: its numbers, in the order of the version's; None if it has none.
            segment: whose fallback it gets then.
        """
        manifest = about.manifest
        opened = self._open(about)
        if outputs is not None:
            return Answer(key, opened.assembly.row([outputs]), manifest.of_key(key))
        fallback = opened.fallbacks.of(segment)
        if fallback is None:
            return None
        return Answer(key, fallback, manifest, True, segment)

    def _open(self, about: SinkVersion) -> _Opened:
        now = time.monotonic()
        if about.manifest.forms and now - self._read_at >= DENYLIST_SECONDS:
            denylist, self._read_at = self._read_denylist(), now
            if denylist != self._denylist:
                self._denylist = denylist
        opened, denylist = self._opened, self._denylist
        # By identity: to compare two vocabularies takes longer than a lookup.
        if not (opened and opened.about is about and opened.denylist is denylist):
            manifest = about.manifest
            denied, names = denylist.denied(manifest.forms), manifest.outputs
            opened = self._opened = _Opened(
                about,
                denylist,
                Assembly(names, manifest.forms, [names], denied),
                Fallbacks(manifest.fallback, names, manifest.forms, denied),
            )
        return opened
