"""Replay: after a fix only the dead letters are scored, and merged in one commit."""

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from batch_assets.errors import LakeError, ReleaseError
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.night import Night
from batch_assets.scoring.replay import letters_of
from batch_assets.snapshots.version import Version
from batch_assets_tests import histories
from batch_assets_tests.counting import Counting
from batch_assets_tests.models_that_fail import (
    GOLDEN_ROWS,
    broken,
    write_mendable,
    write_mendable_histories,
)
from batch_assets_tests.projects import Project, attributes, checks_of, make_project
from batch_assets_tests.replays import GATES, replay
from batch_assets_tests.steps import score_rows
from batch_assets_tests.toys import (
    DAY,
    NAME,
    copy_rows,
    expected_risk,
    features_of,
    make_contract,
    make_rows,
    pin_rows,
    read_day,
    validate,
    write_source,
)

ROWS = 1_000


KINDS: dict[str, tuple[Callable[[Path], Release], Callable[[int], pa.Table]]] = {
    "numbers": (write_mendable, make_rows),
    "histories": (write_mendable_histories, histories.make_rows),
}
ANY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def mendable_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Release]:
    @functools.cache
    def written(kind: str) -> Release:
        write, _ = KINDS[kind]
        return write(tmp_path_factory.mktemp("mendable") / "release")

    return written


@pytest.fixture
def mendable(kind: str, mendable_of: Callable[[str], Release]) -> Release:
    return mendable_of(kind)


@pytest.fixture
def scored(lake: Lake, kind: str, mendable: Release) -> Lake:
    """A day on which the model could not score two ages."""
    _, rows = KINDS[kind]
    copy_rows(lake, rows(ROWS), contract=mendable.contract)
    validate(lake, contract=mendable.contract)
    golden = features_of(make_rows(16), make_contract())[:GOLDEN_ROWS, 0].tolist()
    free = [age for age in range(121) if age not in golden]
    broken.clear()
    broken.update(free[:2])
    score(lake, mendable)
    assert lake.books(DAY).total.dead.rows > 4
    yield lake
    broken.clear()


def score(lake: Lake, release: Release, engine: Any = None) -> Night:
    return score_rows(
        lake,
        release,
        DAY,
        engine or Counting(),
        chunk_rows=200,
        gates=GATES,
    )


def state(lake: Lake) -> dict[str, Any]:
    return {
        table.name: (DeltaTable(table.path).version(), table.paths(DAY))
        for table in (lake.predictions, lake.dead_letters)
    }


def letters_by_key(lake: Lake) -> str:
    """As text, in which NaN equals itself."""
    if not lake.dead_letters.parts(DAY):
        return ""
    return repr(read_day(lake, "dead_letters").to_pylist())


def must_be_as_undisturbed(lake: Lake, release: Release) -> None:
    """The day holds what a night holds that is made now, of the same rows.

    Rows stood elsewhere in their batches, which may change the last bit of a number.
    """
    other = Lake(lake.folder.parents[1] / "undisturbed", NAME)
    for table in (lake.validated_features, lake.quarantined_rows, lake.raw_features):
        if table.path.exists():
            shutil.copytree(table.path, other.folder / table.path.name)
    score(other, release)
    here, there = (read_day(one, "predictions") for one in (lake, other))
    assert here.column_names == there.column_names
    for field in here.schema:
        one, expected = here[field.name], there[field.name]
        if pa.types.is_floating(field.type):
            np.testing.assert_allclose(one, expected, rtol=1e-6)
        else:
            assert one.equals(expected), field.name
    assert letters_by_key(lake) == letters_by_key(other)


def test_after_a_fix_only_the_dead_letters_are_scored_and_merged(scored, mendable):
    dead = scored.books(DAY).total.dead
    before = scored.predictions.parts(DAY)
    versions = state(scored)
    broken.clear()
    engine = Counting()

    done = replay(scored, mendable, engine)

    assert engine.rows == dead.rows
    assert (done.before, done.rescued, done.dead_letters.rows) == (dead, dead, 0)
    rows = make_rows(ROWS).sort_by("user_id")
    table = read_day(scored, "predictions")
    assert table["user_id"].equals(rows["user_id"])
    np.testing.assert_allclose(table["risk"], expected_risk(rows), rtol=1e-6)
    assert set(table["model_version"].to_pylist()) == {mendable.digest}
    books = scored.books(DAY)
    assert books.open_after_scoring() == []
    assert books.total.dead.rows == 0
    # One commit, which keeps every part that was there.
    assert DeltaTable(scored.predictions.path).version() == (
        versions["predictions"][0] + 1
    )
    assert {p.path for p in before} < set(scored.predictions.paths(DAY))


def test_what_still_fails_stays_a_dead_letter_and_the_books_close(scored, mendable):
    found = scored.books(DAY).total.dead
    broken.pop()

    done = replay(scored, mendable)

    assert 0 < done.rescued.rows < found.rows
    assert done.rescued + done.dead_letters == found
    books = scored.books(DAY)
    assert books.open_after_scoring() == []
    assert books.total.dead == done.dead_letters
    assert {row["age"] for row in letters_of(scored, DAY).to_pylist()} == broken


def test_a_second_replay_changes_nothing(scored, mendable):
    broken.pop()
    first = replay(scored, mendable)
    before = state(scored)

    second = replay(scored, mendable)

    assert second.rescued.rows == 0
    assert second.dead_letters == first.dead_letters
    assert second.data_version == first.data_version
    assert state(scored) == before


def test_a_replay_without_a_fix_changes_nothing_and_a_later_one_scores(
    scored, mendable
):
    """What a replay in vain left on disk must not be taken for done."""
    before = state(scored)
    assert replay(scored, mendable).rescued.rows == 0
    assert state(scored) == before
    broken.clear()

    assert replay(scored, mendable).dead_letters.rows == 0
    assert scored.books(DAY).open_after_scoring() == []


def test_one_fix_after_the_other(scored, mendable):
    broken.pop()
    replay(scored, mendable)
    broken.clear()

    done = replay(scored, mendable)

    assert done.dead_letters.rows == 0
    assert scored.books(DAY).open_after_scoring() == []
    assert read_day(scored, "predictions")["user_id"].to_pylist() == list(
        range(1, ROWS + 1)
    )


def test_a_day_without_dead_letters_is_left_alone(lake, mendable):
    copy_rows(lake, make_rows(ROWS))
    validate(lake)
    score(lake, mendable)
    engine = Counting()

    done = replay(lake, mendable, engine)

    assert (done.before.rows, done.rescued.rows, engine.rows) == (0, 0, 0)


@ANY_KIND
@pytest.mark.parametrize("mended", [1, 2])
def test_a_replay_killed_between_its_commits_is_finished_by_the_next(
    scored, mendable, mended
):
    for _ in range(mended):
        broken.pop()
    found = scored.books(DAY).total.dead
    calls = []

    def killed_at_the_second_commit() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(scored, mendable, guard=killed_at_the_second_commit)
    # Rows are in both tables: whoever publishes now is refused.
    assert scored.books(DAY).open_after_scoring() != []
    engine = Counting()

    done = replay(scored, mendable, engine)

    assert engine.rows == done.dead_letters.rows
    assert scored.books(DAY).open_after_scoring() == []
    assert done.dead_letters.rows < found.rows
    assert scored.books(DAY).total.scored.rows == ROWS - done.dead_letters.rows
    must_be_as_undisturbed(scored, mendable)


@ANY_KIND
def test_a_night_after_a_killed_replay_closes_the_books_too(scored, mendable):
    broken.clear()
    calls = []

    def killed_at_the_second_commit() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(scored, mendable, guard=killed_at_the_second_commit)

    score(scored, mendable)

    assert scored.books(DAY).open_after_scoring() == []
    assert replay(scored, mendable).dead_letters.rows == 0
    must_be_as_undisturbed(scored, mendable)


def test_a_night_after_a_replay_changes_nothing(scored, mendable):
    broken.clear()
    done = replay(scored, mendable)
    before = state(scored)

    night = score(scored, mendable)

    assert night.unchanged
    assert night.total == done.total
    assert state(scored) == before


def test_rows_that_fail_in_another_way_keep_their_newest_reason(scored, mendable):
    table = letters_of(scored, DAY)
    assert set(table["stage"].to_pylist()) == {"score"}
    assert all(why.startswith("KeyError: ") for why in table["reason"].to_pylist())
    assert table.column_names[0] == "user_id"
    assert "shard" in table.column_names


def test_another_release_is_refused(scored, toy_release):
    before = state(scored)

    with pytest.raises(ReleaseError, match="a day has one release"):
        replay(scored, toy_release)

    assert state(scored) == before


def test_a_day_that_was_never_scored_is_refused(lake, mendable):
    with pytest.raises(LakeError, match="nothing to replay"):
        replay(lake, mendable)


def test_a_day_that_was_validated_again_is_refused(scored, mendable):
    copy_rows(scored, make_rows(ROWS, seed=9))
    validate(scored)

    with pytest.raises(LakeError, match="validated again"):
        replay(scored, mendable)


def test_an_engine_that_loses_rows_leaves_the_day_as_it_was(scored, mendable):
    broken.clear()
    before = state(scored)

    class Losing(Counting):
        def run(self, tasks):
            yield from super().run(
                [dataclasses.replace(tasks[0], row_groups=(0, 0), rows=0)]
            )

    with pytest.raises(LakeError, match="don't close"):
        replay(scored, mendable, Losing())

    assert state(scored) == before


@pytest.fixture
def project(
    tmp_path: Path, root: Path, registry: Any, mendable: Release, monkeypatch: Any
) -> Project:
    registry.add(mendable.folder)
    registry.approve(NAME, mendable.digest, why="the tests need it", by="ada")
    pipeline = attributes(gates={"max_dead_letter_share": 0.1, "min_coverage": 0.9})
    return make_project(tmp_path / "project", root, monkeypatch, [pipeline])


def test_from_the_ui_the_replay_job_merges_checks_and_serves(project, scored):
    """The job as the launchpad runs it: with its own config, and nothing to type."""
    rows = make_rows(ROWS)
    write_source(project.folder, rows)
    with dg.instance_for_test() as instance:
        assert project.run("toy", DAY, instance).success
        key = letters_of(project.lake("toy"), DAY)["user_id"][0].as_py()
        assert Version.current(project.snapshots("toy")).get(key) is None
        # Another release is in the graph by now; the day keeps its own.
        other = next(
            d
            for d in project.registry.digests(NAME)
            if d != letters_of(project.lake("toy"), DAY)["model_version"][0].as_py()
        )
        project.registry.approve(NAME, other, why="newer", by="ada")
        assert project.materialize("toy", ["model_release"], None, instance).success
        broken.clear()
        job = project.definitions.resolve_job_def("toy_replay_job")

        result = job.execute_in_process(
            partition_key=DAY, instance=instance, raise_on_error=False
        )

    assert result.success
    answer = Version.current(project.snapshots("toy")).get(key)
    assert answer is not None
    expected = expected_risk(rows.filter(pa.compute.equal(rows["user_id"], key)))
    assert answer.outputs["risk"] == pytest.approx(float(expected[0]), abs=1e-6)
    checks = result.get_asset_check_evaluations()
    assert {check.check_name for check in checks} == checks_of(
        "predictions", "serving_snapshot"
    )
    assert all(check.passed for check in checks)


def test_a_shard_of_several_validated_parts_is_replayed(
    lake: Lake, mendable: Release
) -> None:
    pin_rows(lake, make_rows(ROWS), files=10)
    validate(lake, row_group_rows=20)
    golden = features_of(make_rows(16), make_contract())[:GOLDEN_ROWS, 0].tolist()
    broken.clear()
    broken.update([age for age in range(121) if age not in golden][:2])
    score(lake, mendable)
    dead = lake.books(DAY).total.dead.rows
    broken.clear()

    done = replay(lake, mendable)

    assert (done.rescued.rows, done.dead_letters.rows) == (dead, 0)
    assert len(lake.validated_features.parts(DAY)) > 4
    assert lake.books(DAY).open_after_scoring() == []
