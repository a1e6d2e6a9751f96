"""A footer is read once for as long as the file is the very one, and no longer."""

import os
from collections import Counter
from pathlib import Path

import pytest

from batch_assets.errors import CorruptPartError
from batch_assets.lake import known_parts as known
from batch_assets.lake.parts import open_part
from batch_assets.lake.tables import Lake
from batch_assets_tests.parts_by_hand import SCHEMA, commit, facts_of, write_part
from batch_assets_tests.publishing import publish_nights
from batch_assets_tests.toys import DAY, make_rows

DAY_AFTER = "2026-08-26"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each part's footer was read for the receipts of a day."""
    count: Counter[Path] = Counter()

    def counted(path: Path):
        count[path] += 1
        return open_part(path)

    monkeypatch.setattr(known, "open_part", counted)
    known._days.clear()
    return count


@pytest.fixture
def table(tmp_path: Path):
    return Lake(tmp_path, "toy").predictions


def test_a_day_that_is_asked_for_again_is_not_read_again(table, opened):
    commit(table, [1, 2, 3])
    opened.clear()
    first = table.parts(DAY)
    assert [table.parts(DAY) for _ in range(5)] == [first] * 5
    assert table.of_shards([0]).parts(DAY) == first
    assert list(opened.values()) == [1]


@pytest.mark.parametrize("keys", [[4, 5, 6], [4, 5, 6, 7]])
def test_another_file_in_its_place_is_read(table, opened, keys):
    """Though it may have as many bytes, and the time of the one before it."""
    commit(table, [1, 2, 3])
    [before] = table.parts(DAY)
    at = before.path.stat()
    commit(table, keys)
    os.utime(before.path, ns=(at.st_atime_ns, at.st_mtime_ns))
    [after] = table.parts(DAY)
    assert after == open_part(before.path)[0] != before


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
        lambda path: path.write_bytes(b""),
    ],
    ids=["gone", "torn", "other bytes", "empty"],
)
def test_a_part_that_was_known_and_is_harmed_is_refused(table, opened, harm):
    commit(table, [1, 2, 3])
    [part] = table.parts(DAY)
    whole = part.path.read_bytes()
    harm(part.path)
    with pytest.raises(CorruptPartError, match=part.path.name):
        table.parts(DAY)
    part.path.write_bytes(whole)
    assert table.parts(DAY) == [part]


def test_what_was_written_is_read_before_it_is_committed(table, opened):
    """Whatever was known of a file of that name."""
    commit(table, [1, 2, 3])
    [part] = table.parts(DAY)
    at = part.path.stat()
    part.path.write_bytes(b"\0" * at.st_size)
    os.utime(part.path, ns=(at.st_atime_ns, at.st_mtime_ns))
    with pytest.raises(CorruptPartError):
        table.commit_day(DAY, [part], SCHEMA, facts_of(part))


def test_days_that_were_asked_for_long_ago_are_forgotten(table, opened, monkeypatch):
    days = [f"2026-09-{number:02}" for number in range(1, known.MOST_DAYS + 3)]
    for day in days:
        commit(table, [1], day=day)
        table.parts(day)
    assert len(known._days) == known.MOST_DAYS
    opened.clear()
    table.parts(days[-1])
    assert not opened
    table.parts(days[0])
    assert sum(opened.values()) == 1

    monkeypatch.setattr(known, "MOST_PARTS", 1)
    parts = [write_part(table, [n], shard=n, day=DAY) for n in range(2)]
    table.commit_day(DAY, parts, SCHEMA, facts_of(parts[0]))
    assert len(table.parts(DAY)) == 2
    assert not known._days


def test_a_night_reads_its_receipts_once(toy_release, tmp_path, opened):
    publish_nights(tmp_path, toy_release, make_rows(60), DAY)
    reads = Counter(path.parent.parent.parent.name for path in opened)
    assert reads["predictions"]
    # Once to see that they lie there, before they are committed, and once for all others.
    assert set(opened.values()) == {2}
