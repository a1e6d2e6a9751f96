"""Texts are tokenised and scored on every engine to the same bytes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.spec import EngineSpec
from batch_assets_tests.engines import (
    ENGINES,
    litter,
    mapping_on,
    parts_on_disk,
    running_ray,
    score,
    scoring_on,
)
from batch_assets_tests.minilm import WIDTH, write_sentences
from batch_assets_tests.texts import make_rows, write_texts
from batch_assets_tests.toys import DAY, NAME, copy_rows, read_day, validate

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

NEXT_DAY = "2026-01-06"


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with running_ray():
        yield


def nights(root: Path, release: Release, engine: EngineSpec, rows: pa.Table) -> Lake:
    """Two nights with rows for quarantine, the second of which builds on the first."""
    lake, contract = Lake(root, NAME), release.contract
    columns = contract.raw_schema().names
    text = columns[-1]
    records = rows.select([name for name in rows.column_names if name in columns])
    table = records.to_pylist()
    table[7][text] = "x" * 1_000_000
    for day in (DAY, NEXT_DAY):
        given = pa.Table.from_pylist(table, contract.raw_schema())
        copy_rows(lake, given, contract=contract, day=day, project=root / "project")
        with mapping_on(engine, root) as parallel_map:
            validate(
                lake,
                day=day,
                contract=contract,
                fingerprints=True,
                parallel_map=parallel_map,
            )
        with scoring_on(engine, root) as scorer:
            night = score(lake, release, scorer, day, incremental=Incremental())
        for row in table[:7]:
            row[text] = f"not {row[text]}"[:40]
    assert night.carried.rows == len(table) - 8
    return lake


def of_toys(folder: Path) -> tuple[Release, pa.Table]:
    return write_texts(folder, name=NAME), make_rows(400)


def of_sentences(folder: Path) -> tuple[Release, pa.Table]:
    rows = make_rows(250)
    return write_sentences(folder, name=NAME), rows.rename_columns(
        ["user_id", "age", "text", "title"]
    )


@pytest.mark.parametrize("make", [of_toys, of_sentences])
@pytest.mark.parametrize("kind", ["ray", "spark"])
def test_texts_are_scored_to_the_same_bytes_on_every_engine(
    tmp_path: Path, kind: str, make: Callable[[Path], tuple[Release, pa.Table]]
) -> None:
    release, rows = make(tmp_path / "release")
    expected = nights(tmp_path / "here", release, ENGINES["local"], rows)
    lake = nights(tmp_path / "there", release, ENGINES[kind], rows)

    assert parts_on_disk(lake) == parts_on_disk(expected)
    assert lake.books(NEXT_DAY).total.quarantined.rows == 1
    found = read_day(lake, "predictions", NEXT_DAY)
    assert found.equals(read_day(expected, "predictions", NEXT_DAY))
    assert set(map(len, found["meaning"].to_pylist())) <= {4, WIDTH}
    assert litter(lake) == []
