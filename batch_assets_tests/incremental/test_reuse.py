"""Incremental nights: unchanged rows take over a prediction, and nothing else does."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batch_assets.errors import CorruptPartError
from batch_assets.incremental.baseline import find_baseline
from batch_assets.incremental.previous_day import FINGERPRINT
from batch_assets.incremental.reuse import (
    Incremental,
    Origin,
    ReuseSource,
    find_reusable_rows,
)
from batch_assets.lake.delta_table import digest_of
from batch_assets.lake.page_layout import COMPACT, FAST, PageLayout
from batch_assets.lake.parts import RECEIPT, open_part, read_open, read_plain_columns
from batch_assets.lake.receipts import LayoutHint, ValidatedReceipt
from batch_assets.lake.reconciliation import ControlTotal, total_of
from batch_assets.lake.seal import SHA256
from batch_assets.lake.shards import fingerprint
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict
from batch_assets.scoring import chunk_rows
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import Night
from batch_assets.spec import GateLimits
from batch_assets_tests.days_by_hand import verdict_of
from batch_assets_tests.models_that_fail import broken, write_mendable
from batch_assets_tests.steps import replay_letters, score_rows
from batch_assets_tests.toys import (
    NAME,
    ROW_GROUP_ROWS,
    ToyRisk,
    copy_rows,
    features_of,
    make_contract,
    make_rows,
    needs_cpu_with,
    pin_rows,
    read_day,
    validate,
    write_events,
    write_toy_release,
)

FIRST, SECOND, THIRD = "2026-01-05", "2026-01-06", "2026-01-07"
ROWS = 2_000
CHANGED = 400


def night(
    lake: Lake,
    release: Release,
    day: str,
    rows: pa.Table | None = None,
    *,
    incremental: Incremental | None = Incremental(),  # noqa: B008 - it is frozen
    precision: str = "float32",
    layout: PageLayout = FAST,
    **changes: Any,
) -> Night:
    """One incremental night of the toy pipeline, from its rows."""
    if rows is not None:
        contract = release.contract
        copy_rows(lake, rows, day=day, contract=contract)
        validate(lake, day=day, contract=contract, fingerprints=True, layout=layout)
    device = find_device("cpu", precision)
    return score_rows(
        lake,
        release,
        day,
        LocalEngine(device, workers=2),
        chunk_rows=2 * ROW_GROUP_ROWS,
        incremental=incremental,
        **{"gates": GateLimits()} | changes,
    )


def verdict_on_reuse(lake: Lake) -> Verdict:
    evidence = DayEvidence(
        SECOND,
        GateLimits(),
        books=lambda: lake.books(SECOND),
        commit=lambda: lake.predictions.last_commit(SECOND),
    )
    return verdict_of("carried_rows_equal_their_rescoring", evidence)


def changed(rows: pa.Table, count: int = CHANGED, *, seed: int = 5) -> pa.Table:
    """The same keys in another order, some of them with other features."""
    random = np.random.default_rng(seed)
    which = random.permutation(len(rows))[:count]
    ages = rows["age"].to_numpy().copy()
    ages[which] = (ages[which] + 1) % 121
    at = rows.column_names.index("age")
    other = rows.set_column(at, rows.schema.field("age"), pa.array(ages))
    return other.take(pa.array(random.permutation(len(rows))))


@pytest.fixture
def lake(root) -> Lake:
    return Lake(root, NAME)


def test_the_fingerprint_is_the_hash_of_a_string_of_the_features_bytes():
    random = np.random.default_rng(2)
    for features in (1, 2, 5, 64):
        columns = random.standard_normal((features, 5_000)).astype(np.float32)
        found = fingerprint(list(columns))
        for row in (0, 1, 4_095, 4_096, 4_999):
            assert found[row] == hash_of(columns[:, row].tobytes())


def hash_of(data: bytes) -> int:
    """As `shards.py` defines it, in the plainest way."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z &= mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    h = mix(len(data) + golden)
    for start in range(0, len(data), 8):
        h = mix(h ^ int.from_bytes(data[start : start + 8], "little")) + golden
    return mix(h)


@pytest.mark.parametrize("bit", [0, 31])
def test_the_fingerprint_notices_a_single_bit(bit):
    columns = [np.ones(8, np.float32), np.full(8, np.nan, np.float32)]
    before = fingerprint(columns)
    columns[1].view(np.uint32)[3] ^= np.uint32(1 << bit)

    assert (fingerprint(columns) != before).tolist() == [i == 3 for i in range(8)]


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_unchanged_rows_are_carried_and_the_day_equals_a_full_one(
    lake, tmp_path, key_dtype
):
    release = write_toy_release(tmp_path / "release", key_dtype=key_dtype)
    rows = make_rows(ROWS, key_dtype=key_dtype)
    night(lake, release, FIRST, rows)
    tonight = pa.concat_tables(
        [
            changed(rows).slice(0, ROWS - 50),
            make_rows(30, first=ROWS + 1, key_dtype=key_dtype, seed=9),
        ]
    )

    second = night(lake, release, SECOND, tonight)

    assert second.decision.built_on == FIRST
    assert ROWS - 50 - CHANGED <= second.carried.rows < ROWS - 50
    assert 0 < second.rescored_rows < ROWS / 10
    found = read_day(lake, "predictions", SECOND)
    full = Lake(tmp_path / "full", NAME)
    night(full, release, SECOND, tonight, incremental=None)
    expected = read_day(full, "predictions", SECOND)
    assert found.drop_columns("risk").equals(expected.drop_columns("risk"))
    # A row may stand elsewhere in its batch than the night before: the last bit differs.
    np.testing.assert_allclose(found["risk"], expected["risk"], rtol=1e-6)


def test_the_books_count_carried_rows_by_name(lake, toy_release):
    rows = make_rows(ROWS)
    night(lake, toy_release, FIRST, rows)

    second = night(lake, toy_release, SECOND, changed(rows))

    page = lake.books(SECOND).total
    assert page.carried == second.carried
    assert page.carried.rows == ROWS - CHANGED
    assert page.scored.rows == CHANGED
    assert page.validated == page.scored + page.carried + page.dead
    assert lake.books(SECOND).open_after_scoring() == []
    verdict = verdict_on_reuse(lake)
    assert verdict.passed
    assert verdict.numbers["carried_rows"] == ROWS - CHANGED
    assert verdict.numbers["rescored_rows"] == second.rescored_rows > 0
    assert lake.predictions.last_commit(SECOND).facts.carried == ROWS - CHANGED
    assert (
        total_of(p.receipt.carried_total for p in lake.predictions.parts(FIRST))
        == ControlTotal()
    )


def test_each_nth_night_scores_every_row(lake, toy_release):
    rows = make_rows(200)
    every = Incremental(full_every=3)
    built_on = [
        night(
            lake, toy_release, f"2026-01-{day:02d}", rows, incremental=every
        ).decision.built_on
        for day in range(1, 8)
    ]

    assert built_on == [
        None,
        "2026-01-01",
        "2026-01-02",
        None,
        "2026-01-04",
        "2026-01-05",
        None,
    ]


def test_a_night_builds_on_no_other_release(lake, toy_release, tmp_path):
    rows = make_rows(200)
    night(lake, toy_release, FIRST, rows)
    other = write_toy_release(tmp_path / "other", about={"author": "somebody else"})

    second = night(lake, other, SECOND, rows)

    assert second.decision.built_on is None
    assert "another release" in second.decision.why
    assert second.carried.rows == 0


@needs_cpu_with("bfloat16")
def test_a_night_builds_on_no_other_arithmetic(lake, tmp_path):
    loose = write_toy_release(tmp_path / "release", tolerance={"cpu": 0.1})
    rows = make_rows(200)
    night(lake, loose, FIRST, rows)

    second = night(lake, loose, SECOND, rows, precision="bfloat16")

    assert second.decision.built_on is None
    assert "cpu bfloat16" in second.decision.why


def test_a_night_builds_on_none_that_was_validated_again(lake, toy_release):
    rows = make_rows(200)
    night(lake, toy_release, FIRST, rows)
    copy_rows(lake, changed(rows, 20), day=FIRST)
    validate(lake, day=FIRST, fingerprints=True)

    second = night(lake, toy_release, SECOND, rows)

    assert second.decision.built_on is None
    assert "validated again" in second.decision.why


def test_a_night_builds_on_none_without_fingerprints(lake, toy_release):
    rows = make_rows(200)
    copy_rows(lake, rows, day=FIRST)
    validate(lake, day=FIRST)
    night(lake, toy_release, FIRST)

    second = night(lake, toy_release, SECOND, rows)

    assert second.decision.built_on is None
    assert "without fingerprints" in second.decision.why


class Drawing(ToyRisk):
    """Says something else each time, of rows that the golden batch has none of."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        luck = torch.rand_like(features[:, 0]) / 2
        return torch.where(features[:, 0] > 40, luck, super().forward(features))


def test_rows_that_come_out_differently_are_not_built_on(lake, tmp_path, caplog):
    contract = make_contract()
    young = make_rows(64)
    at = young.column_names.index("age")
    field = young.schema.field("age")
    young = young.set_column(at, field, pa.array([30] * 64, field.type))
    release = write_toy_release(
        tmp_path / "drawing",
        module=Drawing(),
        golden_inputs=features_of(young, contract),
    )
    rows = make_rows(ROWS)
    night(lake, release, FIRST, rows)

    second = night(lake, release, SECOND, rows)

    assert second.decision.built_on is None
    assert second.carried.rows == 0
    assert "scored again are not what they were" in second.decision.why
    assert "Every row is scored instead" in caplog.text
    assert lake.books(SECOND).total.scored.rows == ROWS
    verdict = verdict_on_reuse(lake)
    assert not verdict.passed
    assert not verdict.blocks
    assert lake.predictions.last_commit(SECOND).facts.decision.refused


def test_a_night_that_is_run_again_changes_nothing(lake, toy_release):
    rows = make_rows(ROWS)
    night(lake, toy_release, FIRST, rows)
    second = night(lake, toy_release, SECOND, changed(rows))

    again = night(lake, toy_release, SECOND)

    assert again.unchanged
    assert again.job == second.job
    assert again.carried == second.carried


def test_only_the_night_before_counts_not_one_after(lake, toy_release):
    rows = make_rows(ROWS)
    night(lake, toy_release, THIRD, rows)

    second = night(lake, toy_release, SECOND, rows)
    third = night(lake, toy_release, THIRD)

    assert second.decision.built_on is None
    assert third.decision.built_on == SECOND
    np.testing.assert_array_equal(
        read_day(lake, "predictions", THIRD)["risk"].to_numpy(),
        read_day(lake, "predictions", SECOND)["risk"].to_numpy(),
    )


def test_a_row_that_was_a_dead_letter_is_scored_again(lake, tmp_path):
    release = write_toy_release(tmp_path / "picky", module=Picky())
    rows = make_rows(ROWS)
    first = night(lake, release, FIRST, rows, gates=GateLimits(max_dead_letter_share=1))

    second = night(
        lake, release, SECOND, rows, gates=GateLimits(max_dead_letter_share=1)
    )

    assert first.dead_letters.rows > 0
    assert second.dead_letters == first.dead_letters
    assert second.carried == first.total


class Picky(ToyRisk):
    """Has nothing to say of the oldest."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        said = super().forward(features)
        return torch.where(features[:, 0] > 119, torch.nan, said)


def test_a_carried_prediction_whose_bytes_were_changed_stops_the_night(
    lake, toy_release
):
    rows = make_rows(ROWS)
    first = night(lake, toy_release, FIRST, rows)
    path = first.parts[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptPartError, match="hashes to|can't be read"):
        night(lake, toy_release, SECOND, rows)
    assert SECOND not in lake.predictions.rows_by_day()


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_rows_that_are_as_they_were_lie_in_row_groups_of_their_own(
    lake, tmp_path, key_dtype
):
    release = write_toy_release(tmp_path / "release", key_dtype=key_dtype)
    rows = make_rows(ROWS, key_dtype=key_dtype)
    night(lake, release, FIRST, rows)
    night(lake, release, SECOND, changed(rows))

    first, second = (lake.validated_features.parts(day) for day in (FIRST, SECOND))
    rows_of = {False: 0, True: 0}
    for part in second:
        hint = part.receipt.hint
        assert hint.of == digest_of(first)
        for group, count in enumerate(part.groups):
            rows_of[group in hint.groups] += count

    assert [part.receipt.hint for part in first] == [LayoutHint()] * len(first)
    assert rows_of == {False: CHANGED, True: ROWS - CHANGED}
    assert lake.books(SECOND).open_after_validation() == []
    assert list(lake.validated_features.path.glob(".before-*")) == []


def test_what_a_killed_validation_left_is_swept(lake, toy_release):
    night(lake, toy_release, FIRST, make_rows(200))
    left = lake.validated_features.path / f".before-{SECOND}-abc"
    other = lake.validated_features.path / f".before-{THIRD}-abc"
    for folder in (left, other):
        folder.mkdir()
        (folder / "0.npy").touch()

    lake.remove_leftovers(SECOND)

    assert not left.exists()
    assert other.exists()


def pinned_night(
    lake: Lake, release: Release, day: str, rows: pa.Table
) -> dict[Path, ReuseSource]:
    """A night of a pinned source, in ten pieces, and where its parts are taken from."""
    write_events(lake, rows, day=day, files=10)
    pin_rows(lake, rows, day=day, contract=release.contract)
    validate(lake, day=day, row_group_rows=50, fingerprints=True)
    baseline, _ = find_baseline(
        lake, release, day, find_device("cpu").arithmetic, Incremental()
    )
    parts = lake.validated_features.parts(day)
    sources = baseline.sources_of(parts, "job") if baseline else {}
    done = night(lake, release, day)
    assert done.carried.rows == (ROWS - CHANGED if baseline else 0)
    return sources


def test_rows_are_looked_up_in_those_parts_alone_that_they_were_in(lake, toy_release):
    rows = make_rows(ROWS)
    pinned_night(lake, toy_release, FIRST, rows)
    ages = np.where(np.arange(ROWS) % 5 == 0, 121 - rows["age"].to_numpy(), rows["age"])
    at = rows.column_names.index("age")
    field = rows.schema.field("age")
    tonight = rows.set_column(at, field, pa.array(ages.astype(np.int16)))

    sources = pinned_night(lake, toy_release, SECOND, tonight)

    origins = [source.origins for source in sources.values()]
    assert {len(of) for of in origins} == {1}
    assert len(set(origins)) == len(lake.validated_features.parts(FIRST)) == 40


def test_a_shard_is_loaded_once_where_its_rows_lie_anywhere(lake, toy_release):
    rows = make_rows(ROWS)
    pinned_night(lake, toy_release, FIRST, rows)

    sources = pinned_night(lake, toy_release, SECOND, changed(rows))

    shards = {path.parent.name: set[tuple[Origin, ...]]() for path in sources}
    for path, source in sources.items():
        shards[path.parent.name].add(source.origins)
    assert len(sources) > len(shards)
    assert {len(origins) for origins in shards.values()} == {1}


def test_a_night_beside_one_that_was_never_scored_builds_on_the_one_that_was(
    lake, toy_release
):
    rows = make_rows(ROWS)
    night(lake, toy_release, FIRST, rows)
    copy_rows(lake, changed(rows), day=SECOND)
    validate(lake, day=SECOND, fingerprints=True)

    third = night(lake, toy_release, THIRD, changed(rows, seed=6))

    assert third.decision.built_on == FIRST
    assert third.carried.rows == ROWS - CHANGED


def test_a_night_without_fingerprints_of_its_own_scores_every_row(lake, toy_release):
    rows = make_rows(200)
    night(lake, toy_release, FIRST, rows)
    copy_rows(lake, rows, day=SECOND)
    validate(lake, day=SECOND)

    second = night(lake, toy_release, SECOND)

    assert second.carried.rows == 0
    assert lake.books(SECOND).total.scored.rows == 200


def test_a_row_that_a_replay_has_rescued_is_carried(lake, tmp_path):
    release = write_mendable(tmp_path / "release")
    rows = make_rows(ROWS)
    broken.add(100)
    allowed = GateLimits(max_dead_letter_share=1)
    first = night(lake, release, FIRST, rows, gates=allowed)
    broken.clear()
    engine = LocalEngine(find_device("cpu"), workers=2)
    replay_letters(lake, release, FIRST, engine, chunk_rows=2 * ROW_GROUP_ROWS)

    second = night(lake, release, SECOND, rows)

    assert first.dead_letters.rows > 0
    assert second.carried.rows == ROWS
    assert read_day(lake, "predictions", SECOND).equals(
        read_day(lake, "predictions", FIRST)
    )


@pytest.mark.parametrize("layout", [FAST, COMPACT])
def test_chunks_of_carried_rows_read_no_features_but_of_those_rescored(
    lake, toy_release, monkeypatch, layout
):
    rows = make_rows(ROWS)
    night(lake, toy_release, FIRST, rows)
    read: list[int] = []

    def counting(part, file, columns, groups=None):
        if "age" in columns:
            read.append(len(groups))
        return read_open(part, file, columns, groups)

    def counting_plain(part, file, groups, rooms):
        if part.as_in_memory and "age" in rooms:
            read.append(len(groups))
        return read_plain_columns(part, file, groups, rooms)

    monkeypatch.setattr(chunk_rows, "read_open", counting)
    monkeypatch.setattr(chunk_rows, "read_plain_columns", counting_plain)
    night(lake, toy_release, SECOND, rows, layout=layout)

    assert sum(read) == 1


def test_predictions_are_hashed_before_they_are_taken_over(lake, toy_release):
    night(lake, toy_release, FIRST, make_rows(ROWS))
    part = lake.predictions.parts(FIRST)[0]
    notes = pq.read_metadata(part.path).metadata
    rows = pq.read_table(part.path, partitioning=None)
    at = rows.column_names.index("risk")
    forged = rows.set_column(at, "risk", pa.array(rows["risk"].to_numpy() / 2))
    with pq.ParquetWriter(part.path, forged.schema, store_schema=False) as writer:
        writer.write_table(forged)
        writer.add_key_value_metadata({name: notes[name] for name in (RECEIPT, SHA256)})
    validated = lake.validated_features.parts(FIRST)[0]
    source = ReuseSource((Origin(validated.path, (part.path,)),), (0,))

    opened, file = open_part(validated.path)
    with file, pytest.raises(CorruptPartError, match="it was sealed as"):
        find_reusable_rows(source, opened, file, (0, 1), toy_release.contract)


@pytest.mark.parametrize("said", [True, False])
def test_a_part_validated_before_there_were_hints_has_none(said: bool) -> None:
    facts = {"raw": "part", "contract": "ab", "rules": {}}
    facts |= {FINGERPRINT: True, "as_before": said}

    assert ValidatedReceipt.of_facts(facts)["hint"] == LayoutHint()


@pytest.mark.parametrize(
    ("first", "second"), [(COMPACT, FAST), (FAST, COMPACT), (FAST, FAST)]
)
def test_a_night_is_built_on_one_whose_features_lie_otherwise(
    root: Path, tmp_path: Path, toy_release: Release, first: Any, second: Any
) -> None:
    lake, rows = Lake(root, NAME), make_rows(ROWS)
    night(lake, toy_release, FIRST, rows, layout=first)

    built = night(lake, toy_release, SECOND, changed(rows), layout=second)

    assert built.carried.rows == ROWS - CHANGED
    apart = Lake(tmp_path / "apart", NAME)
    night(apart, toy_release, SECOND, changed(rows), layout=COMPACT)
    found, expected = (read_day(of, "predictions", SECOND) for of in (lake, apart))
    assert found["user_id"].equals(expected["user_id"])
    # Among other rows of its batch, the last bit of one may be another.
    np.testing.assert_allclose(found["risk"], expected["risk"], rtol=1e-6)
