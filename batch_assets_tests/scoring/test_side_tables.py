"""Items that a side table of the day lists are in no ranking, tonight and again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance

from batch_assets import Ranking
from batch_assets.errors import ContractError, LakeError, ScoringError, SourceError
from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.side_tables import copy_side_tables, side_tables_of
from batch_assets.lake.sources import ParquetSource
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.post_specs import PostProcessing, SideTable, TopK
from batch_assets.models.release import Release
from batch_assets.online.scoring import Limits, LiveRelease
from batch_assets.scoring.device import find_device
from batch_assets_tests.histories import (
    ITEMS,
    NAME,
    POST,
    REGIONS,
    make_contract,
    make_rows,
    write_histories,
)
from batch_assets_tests.nights import files, score
from batch_assets_tests.projects import make_project, metadata_of
from batch_assets_tests.toys import (
    DAY,
    context_of,
    copy_rows,
    project_of,
    read_day,
    validate,
)

NEXT_DAY = "2026-01-06"
SOURCE = ParquetSource(kind="parquet", glob="side-{{ day }}.parquet")


def post_of(by: str | None) -> PostProcessing:
    *others, ranking = POST.stages
    assert isinstance(ranking, TopK)
    without = TopK(**ranking.model_dump() | {"without": ("seen_items", "gone")})
    table = SideTable(name="gone", vocabulary="items", by=by)
    return PostProcessing(gives=POST.gives, stages=(*others, without), tables=(table,))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release") / NAME
    return write_histories(folder, post=post_of(None))


@pytest.fixture(scope="module")
def by_region(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("by_region") / NAME
    return write_histories(folder, post=post_of("region"))


@pytest.fixture
def lake(root: Path) -> Lake:
    return Lake(root, NAME)


def take(lake: Lake, table: dict[str, Any], day: str = DAY, **changes: Any) -> None:
    project = project_of(lake)
    project.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), project / f"side-{day}.parquet")
    context = context_of(project, day)
    copy_side_tables(lake, {"gone": SOURCE}, context, newest=day, **changes)


def ready(lake: Lake, contract: Contract, day: str = DAY, n: int = 300) -> pa.Table:
    rows = make_rows(n)
    copy_rows(lake, rows, day=day, contract=contract)
    validate(lake, day=day, contract=contract, fingerprints=True)
    return rows


def ranked(lake: Lake, day: str = DAY) -> dict[int, list[int]]:
    rows = read_day(lake, "predictions", day)
    return dict(
        zip(rows["user_id"].to_pylist(), rows["next_items"].to_pylist(), strict=True)
    )


def without(rankings: dict[int, list[int]], gone: set[int]) -> bool:
    return not any(gone & set(items) for items in rankings.values())


def test_what_is_listed_is_ranked_for_nobody_and_the_next_best_moves_up(
    lake: Lake, release: Release
) -> None:
    ready(lake, release.contract)
    take(lake, {"item": pa.array([], pa.int64())})
    score(lake, release)
    before = ranked(lake)
    # The most ranked ones; and one that the vocabulary does not know.
    gone = {items[0] for items in before.values()}
    gone = set(sorted(gone)[:10])
    assert not without(before, gone)
    take(lake, {"item": [*gone, 7]})
    assert not score(lake, release).unchanged
    after = ranked(lake)
    assert without(after, gone)
    for key, items in before.items():
        kept = [item for item in items if item not in gone]
        assert after[key][: len(kept)] == kept
        assert len(after[key]) == 5
    assert score(lake, release).unchanged


def test_what_is_blocked_in_a_region_is_ranked_in_the_others(
    lake: Lake, by_region: Release
) -> None:
    rows = ready(lake, by_region.contract)
    north, everywhere = list(ITEMS[:12]), list(ITEMS[12:16])
    take(
        lake,
        {
            "item": [*north, *everywhere, ITEMS[20], ITEMS[21]],
            # Of a region that no vocabulary knows: it may be any such row's.
            "region": ["north"] * 12 + [None] * 4 + ["atlantis", "east"],
        },
    )
    score(lake, by_region)
    rankings = ranked(lake)
    of = dict(zip(rows["user_id"].to_pylist(), rows["region"].to_pylist(), strict=True))
    in_north = {key: items for key, items in rankings.items() if of[key] == "north"}
    elsewhere = {key: items for key, items in rankings.items() if of[key] != "north"}
    assert without(in_north, set(north))
    assert not without(elsewhere, set(north))
    assert without(rankings, set(everywhere))
    in_east = {key: items for key, items in rankings.items() if of[key] == "east"}
    assert without(in_east, {ITEMS[21]})
    assert not without(rankings, {ITEMS[21]})
    nowhere = {key: items for key, items in rankings.items() if of[key] == "moon"}
    assert nowhere
    assert without(nowhere, {ITEMS[20]})
    assert not without(in_north, {ITEMS[20]})
    assert set(of.values()) > set(REGIONS)


def test_a_night_with_other_side_tables_takes_no_row_over(
    lake: Lake, release: Release
) -> None:
    building = {"incremental": Incremental()}
    for day in (DAY, NEXT_DAY, "2026-01-07"):
        ready(lake, release.contract, day)
        take(lake, {"item": [ITEMS[1] if day == DAY else ITEMS[2]]}, day)
        night = score(lake, release, day=day, **building)
        if day == NEXT_DAY:
            assert night.carried.rows == 0
            assert "side tables of 2026-01-05 were others" in night.decision.why
    # Those of the second and the third are the same.
    assert night.carried.rows > 250
    assert without(ranked(lake, "2026-01-07"), {ITEMS[2]})
    assert not without(ranked(lake, DAY), {ITEMS[2]})


def test_a_side_table_that_was_not_taken_stops_before_anything_is_scored(
    lake: Lake, release: Release
) -> None:
    ready(lake, release.contract)
    with pytest.raises(LakeError, match="'gone' was not taken for 2026-01-05"):
        score(lake, release)
    assert files(lake) == {}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"item": [1, 2, 3]}, "none of the 3 items .* is it of another catalogue"),
        ({"items": [ITEMS[0]]}, r"has the columns \['items'\], expected \['item'\]"),
        ({"item": ["tea"]}, "holds string, expected int64"),
    ],
)
def test_a_side_table_of_something_else_is_one_clear_error(
    lake: Lake, release: Release, table: dict[str, Any], said: str
) -> None:
    ready(lake, release.contract)
    take(lake, table)
    with pytest.raises(ContractError, match=said):
        score(lake, release)
    assert files(lake) == {}


def test_a_side_table_that_was_altered_scores_nothing(
    lake: Lake, release: Release
) -> None:
    ready(lake, release.contract)
    take(lake, {"item": [ITEMS[0]]})
    (table,) = side_tables_of(lake, DAY, ("gone",))
    data = bytearray(Path(table.path).read_bytes())
    data[-20] ^= 1
    Path(table.path).write_bytes(data)
    from batch_assets.lake.side_tables import read_side_table

    with pytest.raises(LakeError, match="is not what it was when the night began"):
        read_side_table(table)


def test_equal_rows_in_another_order_are_the_same_night(
    lake: Lake, release: Release
) -> None:
    ready(lake, release.contract)
    take(lake, {"item": list(ITEMS[:5])})
    score(lake, release)
    take(lake, {"item": list(ITEMS[:5])[::-1]})
    assert score(lake, release).unchanged


def test_what_only_tells_of_today_stays_as_it_was_taken(lake: Lake) -> None:
    project = project_of(lake)
    project.mkdir(parents=True)
    today = ParquetSource(kind="parquet", glob="gone.parquet", history="none")

    def copy(day: str, **changes: Any) -> dict[str, int]:
        context = context_of(project, day)
        return copy_side_tables(
            lake, {"gone": today}, context, newest=NEXT_DAY, **changes
        )

    pq.write_table(pa.table({"item": [1, 2]}), project / "gone.parquet")
    with pytest.raises(SourceError, match="was not taken for 2026-01-05"):
        copy(DAY)
    assert copy(DAY, force=True) == {"gone": 2}
    pq.write_table(pa.table({"item": [1, 2, 3]}), project / "gone.parquet")
    assert copy(DAY) == {"gone": 2}
    assert copy(NEXT_DAY) == {"gone": 3}


def test_scores_online_are_refused_where_a_night_is_needed(release: Release) -> None:
    with pytest.raises(ScoringError, match=r"the side tables \['gone'\]"):
        LiveRelease(release, find_device("cpu"), Limits())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocabulary": "nothing"}, "is of no vocabulary 'nothing'"),
        ({"by": "device_id"}, "is by 'device_id'; the ids are"),
        ({"name": "other"}, "a ranking is without|no ranking is without"),
    ],
)
def test_a_table_that_does_not_fit_the_release_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    post = post_of(None)
    table = post.tables[0].model_copy(update=change)
    with pytest.raises(Exception, match=said):
        write_histories(
            tmp_path / "release", post=post.model_copy(update={"tables": (table,)})
        )


PIPELINE = {
    "name": NAME,
    "start_day": "2026-01-01",
    "source": {"kind": "parquet", "glob": "days/{{ day }}.parquet"},
    "model": {"name": NAME},
    "shards": 2,
    "gates": {"max_dead_letter_share": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False])
def test_a_pipeline_declares_the_side_tables_of_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    *outputs, _ = make_contract().outputs
    ranking = Ranking(name="next_items", vocabulary="items", k=5, at_least=0)
    contract = make_contract(outputs=(*outputs, ranking))
    release = write_histories(
        tmp_path / "release", post=post_of(None), contract=contract
    )
    tables = {"side_tables": {"gone": SOURCE.model_dump(exclude_none=True)}}
    pipeline = PIPELINE | (tables if declared else {})
    project = make_project(
        tmp_path / "project", tmp_path / "root", monkeypatch, [pipeline]
    )
    project.registry.add(release.folder)
    project.registry.approve(NAME, release.digest, why="a test", by="ada")
    (tmp_path / "project" / "days").mkdir()
    rows = make_rows(300)
    pq.write_table(rows, tmp_path / "project" / "days" / f"{DAY}.parquet")
    pq.write_table(
        pa.table({"item": list(ITEMS[:40])}),
        tmp_path / "project" / f"side-{DAY}.parquet",
    )
    with DagsterInstance.ephemeral() as on:
        result = project.run(NAME, DAY, on)
    if not declared:
        assert not result.success
        assert not project.lake(NAME).raw_features.rows_by_day()
        return
    assert result.success
    rankings = ranked(project.lake(NAME))
    assert without(rankings, set(ITEMS[:40]))
    short = sum(len(items) < 5 for items in rankings.values())
    assert 0 < short < len(rankings) == 300
    said = metadata_of(result, "predictions")
    assert said["next_items_short_rankings"] == short
    answer: Callable[..., Any] = project.snapshots(NAME).served
    assert answer() is not None
    assert make_contract().digest == release.contract.digest
