"""Large lookups take turns, a piece in each round of the loop; small ones wait for none."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch_assets.errors import SnapshotError
from batch_assets.online.responses import shown_of
from batch_assets.online.turns import PIECE, Turns
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.served import serve
from batch_assets_tests.toys import NAME

ROWS = 2_000
MANY = 1_000


class Counted(Version):
    """A version that knows how many keys were looked up at once, and how often."""

    asked: list[int]

    def get_many(self, keys: Any, segments: Any = None) -> Any:
        self.asked.append(len(keys))
        return super().get_many(keys, segments)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turns")
    serve(SnapshotStore(folder, NAME), 1, np.arange(ROWS))
    return folder


@pytest.fixture
def version(root: Path) -> Counted:
    opened = Counted.current(SnapshotStore(root, NAME))
    assert isinstance(opened, Counted)
    opened.asked = []
    return opened


@pytest.mark.parametrize("number", [0, 1, PIECE, PIECE + 1, 2 * PIECE, MANY])
def test_the_answers_are_those_of_one_lookup(version: Counted, number: int) -> None:
    """In their order, with keys that are missing and keys that come twice."""
    keys = [(7 * at) % (ROWS + 50) for at in range(number)]
    expected = version.get_many(keys)
    found, shown = asyncio.run(Turns().looked_up(version, keys, None))
    assert found == expected
    shown_at_once = [shown_of(k, a) for k, a in zip(keys, expected, strict=True)]
    assert shown == shown_at_once


def test_each_key_gets_the_segment_of_its_place(version: Counted) -> None:
    told: list[Any] = []

    class Told(Counted):
        def get_many(self, keys: Any, segments: Any = None) -> Any:
            told.extend(zip(keys, segments, strict=True))
            return super().get_many(keys, segments)

    version.__class__ = Told
    keys, segments = list(range(MANY)), [f"of {key}" for key in range(MANY)]
    asyncio.run(Turns().looked_up(version, keys, segments))
    assert told == list(zip(keys, segments, strict=True))


def test_there_is_one_piece_in_a_round_whoever_asks(version: Counted) -> None:
    """A lookup of one key waits for no more than that: it is answered in each round."""
    turns, each_round = Turns(), []

    async def ask() -> None:
        await turns.looked_up(version, list(range(MANY)), None)

    async def main() -> None:
        asking = [asyncio.create_task(ask()) for _ in range(25)]
        while not all(task.done() for task in asking):
            before = len(version.asked)
            await asyncio.sleep(0)
            each_round.append(len(version.asked) - before)
            small, _ = await turns.looked_up(version, [7], None)
            assert small[0]
            assert small[0].key == 7
            version.asked.pop()

    asyncio.run(main())
    assert max(each_round) == 1
    assert version.asked == [PIECE] * (25 * MANY // PIECE)


def test_they_come_one_after_the_other(version: Counted) -> None:
    """The first is not held up by those that came after it."""
    turns, ended = Turns(), []

    async def ask(name: int) -> None:
        await turns.looked_up(version, list(range(MANY)), None)
        ended.append(name)

    async def main() -> None:
        await asyncio.gather(*(ask(name) for name in range(10)))

    asyncio.run(main())
    assert ended == list(range(10))


def test_a_lookup_that_fails_or_is_given_up_gives_its_turn_back(
    version: Counted,
) -> None:
    turns = Turns()
    wrong: list[Any] = [*range(MANY), "no key"]

    async def main() -> None:
        with pytest.raises(SnapshotError, match="no key"):
            await turns.looked_up(version, wrong, None)
        given_up = asyncio.create_task(
            turns.looked_up(version, list(range(MANY)), None)
        )
        await asyncio.sleep(0)
        given_up.cancel()
        found, _ = await turns.looked_up(version, list(range(MANY)), None)
        assert len(found) == MANY

    asyncio.run(main())
