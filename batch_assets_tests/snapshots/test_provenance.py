"""For any key: what is served, and what stands behind it down to the source's bytes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batch_assets.errors import GateError, LakeError, NotServedError, SnapshotError
from batch_assets.lake.commits import Producer
from batch_assets.lake.overrides import Overrides
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.snapshots.operations import rollback
from batch_assets.snapshots.provenance import Provenance, explain_key
from batch_assets_tests.publishing import (
    NEXT,
    OPEN,
    approved,
    narrow,
    publish,
    root_of,
    score,
    snapshots_of,
)
from batch_assets_tests.toys import DAY, NAME, read_day


def explain(lake: Lake, key: int | str, day: str | None = None) -> Provenance:
    registry = Registry(root_of(lake))
    return explain_key(lake, registry, snapshots_of(lake), str(key), day)


def first_of(lake: Lake, table: str, day: str = DAY) -> dict:
    return read_day(lake, table, day=day).to_pylist()[0]


def test_a_served_key_tells_all_that_stands_behind_it(
    ready: Lake, narrow_release: Release
):
    published = publish(ready, why="run 7 of the night")
    row = first_of(ready, "predictions")

    found = explain(ready, row["user_id"])

    assert (found.day, found.fate, found.key) == (DAY, "predicted", row["user_id"])
    served = found.served
    assert served is not None
    assert served.outputs == {"risk": row["risk"]}
    assert served.is_served
    assert served.of_these_predictions
    assert served.manifest.version == published.version
    assert served.published is not None
    assert served.published.why == "run 7 of the night"
    assert found.row is not None
    assert found.row["risk"] == row["risk"]
    release = found.release
    assert release is not None
    assert release.digest == narrow_release.digest
    assert [(a.by, a.why) for a in release.approvals] == [("ada", "the tests need it")]
    assert [step.table for step in found.steps] == [
        "raw_features",
        "validated_features",
        "predictions",
    ]
    assert found.books_close
    assert found.page == ready.books(DAY).pages[found.shard]
    assert found.judged is not None
    assert found.judged.verdicts == tuple(published.verdicts)
    assert found.source["files"]
    raw = {r["user_id"]: r for r in read_day(ready, "raw_features").to_pylist()}
    assert found.source_row is not None
    assert found.source_row["age"] == raw[row["user_id"]]["age"]
    assert found.features is not None
    assert found.features["plan"] == raw[row["user_id"]]["plan"]


@pytest.mark.parametrize(
    ("table", "fate", "why"),
    [
        ("dead_letters", "dead letter", "reason"),
        ("quarantined_rows", "quarantined", "rules"),
    ],
)
def test_a_key_that_is_not_served_tells_where_it_ended_and_why(
    ready: Lake, table: str, fate: str, why: str
):
    publish(ready)
    row = first_of(ready, table)

    found = explain(ready, row["user_id"])

    assert found.fate == fate
    assert found.row is not None
    assert found.row[why] == row[why]
    assert found.served is not None
    assert found.served.outputs == {}
    assert (found.features is None) == (fate == "quarantined")


def test_a_key_that_the_source_has_not_says_so(ready: Lake):
    publish(ready)
    found = explain(ready, 987_654_321)
    assert (found.fate, found.row, found.source_row) == (
        "not in the source",
        None,
        None,
    )


def test_every_key_of_a_day_is_found_where_it_ended(ready: Lake):
    publish(ready)
    ended = {
        row["user_id"]: fate
        for table, fate in (
            ("predictions", "predicted"),
            ("dead_letters", "dead letter"),
            ("quarantined_rows", "quarantined"),
        )
        for row in read_day(ready, table).to_pylist()[:7]
    }
    assert {key: explain(ready, key).fate for key in ended} == ended


def test_a_day_scored_again_is_told_apart_from_what_is_served(
    ready: Lake, tmp_path: Path
):
    publish(ready)
    other = approved(
        root_of(ready), narrow(tmp_path / "other", about={"author": "else"})
    )
    score(ready, other, DAY)
    found = explain(ready, first_of(ready, "predictions")["user_id"])
    assert found.served is not None
    assert not found.served.of_these_predictions
    assert found.served.manifest.model_version != other.digest
    assert found.release is not None
    assert found.release.digest == other.digest


def test_a_day_that_was_rolled_back_from_is_not_what_is_served(ready: Lake):
    publish(ready, DAY)
    publish(ready, NEXT)
    rollback(snapshots_of(ready), why="odd scores", by="ada")
    key = first_of(ready, "predictions", NEXT)["user_id"]
    found = explain(ready, key, NEXT)
    assert found.served is not None
    assert not found.served.is_served


def test_a_day_that_was_never_published_has_its_rows_all_the_same(ready: Lake):
    row = first_of(ready, "predictions")
    found = explain(ready, row["user_id"], DAY)
    assert (found.served, found.judged, found.fate) == (None, None, "predicted")


def test_a_refused_day_tells_which_gate_and_an_override_whose(ready: Lake):
    shut = OPEN.model_copy(update={"max_dead_letter_share": 0.0})
    key = first_of(ready, "predictions")["user_id"]
    with pytest.raises(GateError):
        publish(ready, gates=shut)
    judged = explain(ready, key, DAY).judged
    assert judged is not None
    gate = "dead_letter_share_is_within_limit"
    assert [v.gate for v in judged.verdicts if v.blocks and not v.passed] == [gate]
    until = datetime.now(UTC) + timedelta(hours=1)
    Overrides(ready.folder).record(DAY, gate, why="known", until=until, by="ada")
    publish(ready, gates=shut)
    served = explain(ready, key).served
    assert served is not None
    assert [(o.gate, o.by) for o in served.manifest.overrides] == [(gate, "ada")]


def test_a_commit_names_its_run_and_its_code(
    ready: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from batch_assets.lake.day_run import DayRun

    release = approved(root_of(ready), narrow(tmp_path / "new", about={"n": 1}))
    run = DayRun(ready, DAY, producer=Producer("run-7", "batch-assets 0.1.0, 1a2b3c"))
    engine = LocalEngine(find_device("cpu"), workers=1)
    score_day(run, release, engine, ScoringSettings(OPEN, 100, 60))
    steps = explain(ready, first_of(ready, "predictions")["user_id"], DAY).steps
    assert (steps[-1].run, steps[-1].code) == ("run-7", "batch-assets 0.1.0, 1a2b3c")
    assert (steps[0].run, steps[0].code) == (None, None)


def test_a_revoked_release_is_still_explained(ready: Lake, narrow_release: Release):
    publish(ready)
    registry = Registry(root_of(ready))
    registry.revoke(NAME, narrow_release.digest, why="it was wrong", by="bob")
    release = explain(ready, first_of(ready, "predictions")["user_id"]).release
    assert release is not None
    assert [event.act for event in release.approvals] == ["approve", "revoke"]


def test_what_can_not_be_explained_is_an_error(ready: Lake):
    with pytest.raises(NotServedError, match="name a day with --day"):
        explain(ready, 1)
    with pytest.raises(LakeError, match="has nothing of 2031-01-01; its days are"):
        explain(ready, 1, "2031-01-01")
    with pytest.raises(SnapshotError, match="is an integer, got 'one'"):
        explain(ready, "one", DAY)
