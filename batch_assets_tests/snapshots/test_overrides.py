"""A shut gate is opened by a name, a reason and an end, which each reader is shown."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from batch_assets.errors import GateError, OverrideError
from batch_assets.lake.overrides import OVERRIDES, Overrides
from batch_assets.lake.tables import Lake
from batch_assets.quality.gates import GATES, must_be_overridable
from batch_assets.quality.verdict_record import read_verdicts
from batch_assets.snapshots.judges import none_overridden
from batch_assets.snapshots.listing import list_versions
from batch_assets.snapshots.version import Version
from batch_assets_tests.publishing import OPEN, publish, served, snapshots_of
from batch_assets_tests.toys import DAY

GATE = "dead_letter_share_is_within_limit"
SHUT = OPEN.model_copy(update={"max_dead_letter_share": 0.0})
HOUR = timedelta(hours=1)


def override(lake: Lake, gate: str = GATE, day: str = DAY, **changes):
    asked = {"why": "a known fault of the source", "by": "ada"}
    asked["until"] = datetime.now(UTC) + HOUR
    return Overrides(lake.folder).record(day, gate, **(asked | changes))


def test_an_overridden_gate_lets_its_day_pass_and_every_reader_is_told(ready: Lake):
    with pytest.raises(GateError, match=rf"--override {GATE} --why … --until …"):
        publish(ready, gates=SHUT)
    given = override(ready)

    published = publish(ready, gates=SHUT)

    assert published.swapped
    shut = next(v for v in published.verdicts if v.gate == GATE)
    assert (shut.passed, shut.blocks, shut.override) == (False, False, given)
    assert f"overridden by ada until {given.until:%Y-%m-%d %H:%M} UTC" in shut.message
    version = Version.current(snapshots_of(ready))
    assert version.manifest.overrides == (given,)
    answer = version.get(next(iter(version.shard(0).packed["user_id"].to_pylist())))
    assert answer is not None
    assert answer.overrides == (given,)
    assert answer.to_dict()["overrides"] == [
        {
            "gate": GATE,
            "by": "ada",
            "why": given.why,
            "until": given.until.isoformat().replace("+00:00", "Z"),
        }
    ]
    assert list_versions(snapshots_of(ready)).versions[-1].overridden_gates == (GATE,)
    assert not none_overridden(ready, snapshots_of(ready), DAY).passed


def test_nothing_is_said_of_overrides_where_there_are_none(ready: Lake):
    override(ready)  # Of a gate that is open.
    publish(ready)
    version = Version.current(snapshots_of(ready))
    assert version.manifest.overrides == ()
    assert "overrides" not in version.manifest.dumps()
    assert none_overridden(ready, snapshots_of(ready), DAY).passed


def test_an_override_ends_and_its_version_is_stale_then(ready: Lake):
    override(ready, until=datetime.now(UTC) + timedelta(seconds=2))
    publish(ready, gates=SHUT)
    version, before = Version.current(snapshots_of(ready)), served(ready)
    time.sleep(2.1)

    assert version.manifest.is_stale
    with pytest.raises(GateError, match=GATE):
        publish(ready, gates=SHUT)
    assert served(ready) == before


@pytest.mark.parametrize("other", [{"day": "2026-01-06"}, {"gate": "coverage"}])
def test_it_is_of_one_gate_and_one_day(ready: Lake, other):
    override(ready, **other)
    with pytest.raises(GateError, match=GATE):
        publish(ready, gates=SHUT)


def test_a_gate_beside_the_overridden_one_still_stops_the_day(ready: Lake):
    override(ready)
    limits = SHUT.model_copy(update={"min_coverage": 1.0})
    with pytest.raises(GateError, match=r"^1 of 14 gates(?s:.*)coverage_is_within"):
        publish(ready, gates=limits)


def test_another_override_makes_another_version_of_the_same_rows(ready: Lake):
    override(ready)
    first = publish(ready, gates=SHUT)
    longer = override(ready, by="bob", until=datetime.now(UTC) + 2 * HOUR)
    second = publish(ready, gates=SHUT)
    assert second.version == f"{first.version}-2"
    assert second.current.overrides == (longer,)
    assert publish(ready, gates=SHUT).version == second.version


def test_a_day_that_is_mended_is_served_without_the_override(ready: Lake):
    override(ready)
    publish(ready, gates=SHUT)
    assert publish(ready, gates=OPEN).current.overrides == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"why": "  "}, "takes a reason"),
        ({"until": datetime.now(UTC) - HOUR}, "later than now"),
        ({"until": datetime.now() + HOUR}, "with a timezone"),
    ],
)
def test_without_a_reason_or_an_end_to_come_nothing_is_recorded(
    ready: Lake, changes, said
):
    with pytest.raises(OverrideError, match=said):
        override(ready, **changes)
    assert Overrides(ready.folder).entries() == []


def test_an_end_in_another_zone_is_the_same_instant(ready: Lake):
    oslo = timezone(timedelta(hours=2))
    until = datetime.now(oslo) + HOUR
    assert override(ready, until=until).until == until
    assert GATE in Overrides(ready.folder).in_force(DAY)


def test_a_torn_line_opens_nothing_and_loses_no_other(ready: Lake):
    given = override(ready)
    with (ready.folder / OVERRIDES).open("a", encoding="utf-8") as file:
        file.write('{"at": "2026-01-0')
    later = override(ready, gate="coverage_is_within_limit")
    assert Overrides(ready.folder).entries() == [given, later]


@pytest.mark.parametrize(
    "gate",
    [gate.name for gate in GATES if not gate.overridable] + ["no_such_gate"],
)
def test_what_proves_can_not_be_overridden(gate):
    with pytest.raises(OverrideError, match="Those that can be are volume_is_like"):
        must_be_overridable(gate)


def test_the_verdicts_of_each_publish_are_kept_with_their_limits(ready: Lake):
    assert read_verdicts(ready, DAY) is None
    published = publish(ready)
    kept = read_verdicts(ready, DAY)
    assert kept is not None
    assert kept.verdicts == tuple(published.verdicts)
    assert (kept.limits, kept.predictions) == (OPEN, published.current.predictions)

    publish(ready)
    assert read_verdicts(ready, DAY) == kept  # The same again is written once.

    with pytest.raises(GateError):
        publish(ready, gates=SHUT)
    refused = read_verdicts(ready, DAY)
    assert refused is not None
    assert refused.limits == SHUT
    assert [v.gate for v in refused.verdicts if v.blocks and not v.passed] == [GATE]

    given = override(ready)
    publish(ready, gates=SHUT)
    overridden = read_verdicts(ready, DAY)
    assert overridden is not None
    assert [v.override for v in overridden.verdicts if v.override] == [given]
