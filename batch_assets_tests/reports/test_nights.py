"""The report of every kind of night, made from what such a night leaves on disk."""

import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from batch_assets.errors import LakeError
from batch_assets.lake.tables import Lake
from batch_assets.models.input_rows import InputRows
from batch_assets.models.registry import Registry
from batch_assets.quality.rules import RowRules, packed
from batch_assets.reports import left_out, rightness
from batch_assets.reports.gather import gather_night, newest_day
from batch_assets.reports.night import write_report
from batch_assets.scoring.device import find_device
from batch_assets.scoring.sweep_results import Point, Sweep, Sweeps
from batch_assets.snapshots.operations import pin, rollback
from batch_assets.spec import GateLimits
from batch_assets_tests import histories
from batch_assets_tests.pages import read, report, scored
from batch_assets_tests.publishing import (
    BEFORE,
    NEXT,
    approved,
    narrow,
    publish,
    raw_rows,
    root_of,
    snapshots_of,
)
from batch_assets_tests.toys import (
    DAY,
    NAME,
    copy_rows,
    features_of,
    make_contract,
    make_rows,
    make_spec,
    validate,
    write_toy_release,
)

SECTIONS = (
    "The books, from raw to served",
    "Scores against the reference",
    "Drift over the nights",
    "Why rows are in quarantine",
    "Why rows are dead letters",
    "Were the scores right?",
    "Where the time went",
    "How many rows the model gets at once",
    "The gates",
    "What is committed",
)


@pytest.fixture(scope="module")
def with_bins(tmp_path_factory):
    """The toy release with bins, so that its nights have profiles."""
    usual = features_of(make_rows(2_000, seed=1), make_contract()).numpy()
    return write_toy_release(
        tmp_path_factory.mktemp("release") / "r",
        usual=InputRows(np.ascontiguousarray(usual.T)),
    )


def test_a_good_night_says_that_it_is_served_and_shows_every_number(
    lake, registry, toy_release
):
    scored(lake, toy_release, make_rows(400))
    version = publish(lake).version

    written, page = report(lake)

    assert written.path == root_of(lake) / "reports" / NAME / f"{DAY}.html"
    assert written.facts.headline.tone == "good"
    assert page.words.startswith(f"{NAME}, night of {DAY} Served 400 rows of 400")
    assert f"as version {version}" in page.words
    assert "It adds up, with the same keys in each of 4 shards." in page.words
    assert "400 validated = 400 scored + 0 carried + 0 dead letters" in page.words
    assert "No row is in quarantine." in page.words
    assert "No row is a dead letter." in page.words
    assert "Next:" not in page.words
    for section in SECTIONS:
        assert section in page.words


def test_rows_that_were_left_out_are_shown_with_rule_reason_and_samples(lake, tmp_path):
    release = approved(root_of(lake), narrow(tmp_path / "r"))
    scored(lake, release, raw_rows(DAY))
    publish(lake)

    written, page = report(lake)

    flow, dead = written.facts.flow, written.facts.dead
    assert (flow.raw, flow.quarantined) == (400, 2)
    assert flow.adds_up
    assert dead.rows == flow.dead > 10
    assert {(one.words, one.rows) for one in written.facts.quarantined.reasons} == {
        ("age is above max", 1),
        ("age is below min", 1),
    }
    assert "age = 200" in page.words
    assert "age = -1" in page.words
    (reason,) = dead.reasons
    assert (reason.words, reason.rows) == ("output 'risk' is …", dead.rows)
    assert len(reason.samples) == 3
    assert f"{dead.rows:,} (100 %)" in page.words


def test_a_gate_that_is_shut_comes_first_with_the_next_command(
    lake, registry, toy_release
):
    copy_rows(lake, raw_rows(DAY))
    validate(lake)

    written, page = report(lake, gates=GateLimits(max_quarantine_share=0.001))

    top = page.words.partition("The books, from")[0]
    assert "Stopped: a gate is shut, nothing is scored" in top
    assert "2 of 400 raw rows are quarantined" in top
    assert "Readers get nothing: no day was ever published." in top
    assert "gates.max_quarantine_share" in top
    assert f"batch-assets run {NAME} --day {DAY}" in top
    assert written.facts.gates[0].state == "shut"
    assert page.words.count("not reached") >= 10


def test_a_night_that_is_scored_and_not_served_says_which_gate(
    lake, registry, toy_release
):
    scored(lake, toy_release, make_rows(400), BEFORE)
    before = publish(lake, BEFORE).version
    scored(lake, toy_release, raw_rows(DAY))

    _, page = report(lake, gates=GateLimits(max_quarantine_share=0.001))

    assert "Stopped: a gate is shut, nothing of it is served" in page.words
    assert f"Readers get the day {BEFORE}, as version {before}" in page.words


def test_a_day_that_was_published_under_wider_limits_says_so(
    lake, registry, toy_release
):
    scored(lake, toy_release, raw_rows(DAY))
    publish(lake)

    _, page = report(lake, gates=GateLimits(max_quarantine_share=0.001))

    assert "Published, and a gate is shut by now" in page.words


def test_a_night_that_failed_before_it_was_scored(lake, registry):
    copy_rows(lake, make_rows(400))

    raw, page = report(lake)
    assert raw.facts.headline.title == "The night ended before scoring"
    assert "There is nothing to add up yet" in page.words
    assert "Of 2026-01-05 the raw rows are there, and no predictions" in page.words

    validate(lake)
    validated, page = report(lake)
    assert validated.facts.headline.tone == "bad"
    assert "validated rows are there, and no predictions" in page.words
    assert "Nothing is scored yet." in page.words


def test_a_day_that_was_never_run_is_an_error_that_says_what_to_do(lake, registry):
    with pytest.raises(LakeError, match="nothing of toy 2026-01-05 is in the lake"):
        write_report(root_of(lake), make_spec(), DAY)
    assert newest_day(lake) is None
    assert not (root_of(lake) / "reports").exists()

    copy_rows(lake, make_rows(4))
    with pytest.raises(LakeError, match="the newest is 2026-01-05. Run the day"):
        write_report(root_of(lake), make_spec(), NEXT)
    assert newest_day(lake) == DAY


def test_a_cold_start_says_so_and_what_it_takes(lake, with_bins):
    approved(root_of(lake), with_bins)
    scored(lake, with_bins, make_rows(400), BEFORE)
    scored(lake, with_bins, make_rows(400, seed=3))

    written, page = report(lake)

    assert "Cold start: 1 night before this one" in page.words
    (drift,) = written.facts.drift.outputs
    assert [point.day for point in drift.nights] == [BEFORE, DAY]
    assert drift.warns_above is not None
    assert f"warns above {drift.warns_above:.3f}".rstrip("0") in page.words


def test_without_bins_there_is_no_history_of_drift_and_the_page_says_so(
    lake, registry, tmp_path
):
    bare = write_toy_release(tmp_path / "r", reference={}, reference_days=None)
    approved(root_of(lake), bare)
    scored(lake, bare, make_rows(400))

    written, page = report(lake)

    assert written.facts.histograms == ()
    assert "The release has no reference and no bins" in page.words
    assert "There is no history" in page.words


def test_keys_that_are_text_are_escaped_and_shortened(lake, string_release):
    release = approved(root_of(lake), string_release)
    rows = make_rows(40, key_dtype="string")
    evil = ["<script>alert(1)</script>", "a&b\"'" + "x" * 90]
    rows = rows.set_column(
        0, "user_id", pa.array(evil + rows["user_id"].to_pylist()[2:])
    )
    rows = rows.set_column(1, "age", pa.array([200] * 2 + [30] * 38, pa.int16()))
    scored(lake, release, rows)

    _, page = report(lake)

    assert "user_id = <script>alert(1)</script>" in page.words
    assert "&lt;script&gt;alert(1)" in page.html
    assert "x" * 90 not in page.words


def test_several_outputs_of_every_kind_are_compared_each_in_its_own_way(root, tmp_path):
    contract = histories.make_contract()
    frame = RowRules(contract).to_features(pl.DataFrame(histories.make_rows(500)))
    usual = packed(frame, contract)
    release = histories.write_histories(tmp_path / "r", usual=usual)
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(histories.NAME, release.digest, why="a test", by="ada")
    lake = Lake(root, histories.NAME)
    scored(lake, release, histories.make_rows(200))

    spec = make_spec(name=histories.NAME, model={"name": histories.NAME})
    written, page = report(lake, spec=spec)

    found = {one.output: one for one in written.facts.histograms}
    assert set(found) == set(release.contract.written_names)
    assert {one.of for one in found.values()} == {
        "value",
        "class",
        "length of the vector",
        "item",
        "score of the first item",
    }
    for one in found.values():
        assert sum(one.counts) == one.rows > 0
        assert len(one.counts) == len(one.reference)
    assert len(found["next_items"].names) <= 12
    assert "Not drawn: " in page.words


def test_a_day_without_rows_has_a_page(lake, registry, toy_release):
    copy_rows(lake, make_rows(0), allow_empty=True)
    validate(lake)

    written, page = report(lake, allow_empty=True)

    assert written.facts.flow.raw == 0
    assert "It adds up" in page.words


def test_a_night_whose_snapshot_is_gone_was_served(lake, registry, toy_release):
    for day in (DAY, NEXT):
        scored(lake, toy_release, make_rows(400), day)
    version = publish(lake, DAY).version
    newer = publish(lake, NEXT).version
    shutil.rmtree(snapshots_of(lake).version_folder(version))

    written, page = report(lake)

    assert written.facts.served.state == "gone"
    assert "Was served; by now a newer day is" in page.words
    assert "No version of this day lies on disk any more." in page.words
    assert newer in page.words
    assert written.facts.flow.in_version is None

    shutil.rmtree(snapshots_of(lake).folder)
    _, page = report(lake)
    assert "Scored, and not served" in page.words


def test_a_rollback_and_a_pin_are_the_first_thing_that_is_said(
    lake, registry, toy_release
):
    store = snapshots_of(lake)
    for day in (BEFORE, DAY):
        scored(lake, toy_release, make_rows(400), day)
        publish(lake, day)
    rollback(store, why="odd scores", by="ada")
    _, page = report(lake)
    assert "Scored, and held back by a person" in page.words
    assert "odd scores" in page.words
    assert f"batch-assets snapshot unblock {NAME} --why REASON" in page.words

    pin(store, store.current(), why="an experiment", by="ada")
    _, page = report(lake)
    assert "Scored; readers are pinned" in page.words


def test_what_cannot_be_read_is_told_and_takes_nothing_else_down(
    lake, registry, toy_release
):
    scored(lake, toy_release, raw_rows(DAY))
    publish(lake)
    for part in lake.quarantined_rows.parts(DAY):
        part.path.write_bytes(b"torn")

    written, page = report(lake)

    assert "What could not be read" in page.words
    assert any("can't be read" in one for one in written.facts.problems)
    assert "age is above max" not in page.words
    assert len(written.pictures.scores) == 1


def test_a_revoked_release_shuts_its_gate_and_the_page_is_there(
    lake, registry, toy_release
):
    scored(lake, toy_release, make_rows(400))
    registry.revoke(NAME, toy_release.digest, why="it was wrong", by="bob")

    written, page = report(lake)

    assert "it was wrong" in page.words
    assert written.facts.headline.tone == "bad"


def test_a_sweep_is_drawn_whichever_device_it_was_of(lake, registry, toy_release):
    scored(lake, toy_release, make_rows(400))
    points = tuple(Point(2**n, 1_000.0 * min(n, 6) + 1, 1.0 * n) for n in range(10))
    cpu = find_device("cpu")
    older, newer = (
        Sweep(
            NAME,
            toy_release.digest,
            device,
            cpu.precision,
            2,
            "2",
            at,
            "enough",
            points,
        )
        for device, at in (("a cpu", 1.0), ("a gpu <x>", 2.0))
    )
    for curve in (newer, older):
        Sweeps(root_of(lake)).keep(curve)

    written, page = report(lake)

    assert written.facts.sweep == newer
    assert "on a gpu <x>, float32" in page.words
    assert "knee (red): 64 rows, 6,001 rows/s" in page.words


def test_of_many_left_out_rows_a_few_are_read(lake, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(left_out, "COUNTED", 3)
    monkeypatch.setattr(left_out, "LOOKED_THROUGH", 2)
    monkeypatch.setattr(left_out, "BATCH_ROWS", 2)
    release = approved(root_of(lake), narrow(tmp_path / "r"))
    scored(lake, release, raw_rows(DAY))

    dead = left_out.dead_letters_of(lake, DAY)

    assert dead.looked_at is not None
    assert dead.looked_at < dead.rows
    assert sum(reason.rows for reason in dead.reasons) == dead.looked_at
    _, page = report(lake)
    assert f"counted over the first {dead.looked_at}" in page.words


def test_the_same_night_gives_the_same_page_but_for_the_time(
    lake, registry, toy_release
):
    scored(lake, toy_release, raw_rows(DAY))
    publish(lake)

    pages = [report(lake)[1].html.rpartition("<footer")[0] for _ in range(2)]

    assert pages[0] == pages[1]


def test_no_row_of_a_night_is_read_but_those_left_out(
    lake, registry, toy_release, monkeypatch
):
    """So that a night of any size has its report in seconds."""
    scored(lake, toy_release, raw_rows(DAY))
    publish(lake)
    seen = []

    def opened(path):
        seen.append(path)
        return open_part(path)

    open_part = left_out.open_part
    monkeypatch.setattr(left_out, "open_part", opened)
    for path in [*lake.raw_features.paths(DAY), *lake.predictions.paths(DAY)]:
        spoil_pages(path)
    for path in snapshots_of(lake).folder.glob("v=*/*.arrow"):
        path.chmod(0o644)
        path.write_bytes(b"no row")

    written, _ = report(lake)

    assert written.facts.problems == ()
    assert written.facts.flow.adds_up
    # That it can't be read would be found out by whatever reads it.
    assert "not judged" not in {line.state for line in written.facts.gates}
    assert {path.parents[2] for path in seen} == {lake.quarantined_rows.path}


def spoil_pages(path) -> None:
    """Break every row of a part, and leave its footer."""
    data = bytearray(path.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little") + 8
    for at in range(4, len(data) - footer):
        data[at] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(bytes(data))


def test_a_report_may_lie_elsewhere(lake, registry, toy_release, tmp_path):
    scored(lake, toy_release, make_rows(400))
    to = tmp_path / "new" / "folder" / "page.html"

    written = write_report(root_of(lake), make_spec(), DAY, to=to)

    assert written.path == to
    read(to)
    assert [path.name for path in to.parent.iterdir()] == ["page.html"]
    assert not (root_of(lake) / "reports").exists()


def test_a_large_day_is_judged_by_a_sample_of_its_outcomes(
    lake, registry, toy_release, monkeypatch
):
    scored(lake, toy_release, make_rows(400))
    monkeypatch.setattr(rightness, "CURVE_ROWS", 150)

    some = rightness._some(lake, DAY)

    rows = sum(part.rows for part in some.predictions.parts(DAY))
    assert 0 < rows <= 150
    monkeypatch.undo()
    assert rightness._some(lake, DAY) is lake


def test_gathering_commits_and_changes_nothing(lake, registry, toy_release):
    scored(lake, toy_release, raw_rows(DAY))
    publish(lake)
    root = root_of(lake)
    before = {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}

    gather_night(root, make_spec(), DAY)

    assert {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))} == before
