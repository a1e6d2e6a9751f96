"""A deadline that is near and missed, told over real HTTP and SMTP, and over when served."""

from datetime import UTC, date, datetime, timedelta

import pytest
from pydantic import TypeAdapter

from batch_assets.alerts.record import AlertRecord
from batch_assets.sensors.alerts import watch
from batch_assets.sensors.deadlines import deadline_conditions
from batch_assets.spec import PipelineSpec
from batch_assets_tests.measured import keep_nights
from batch_assets_tests.projects import FIRST, attributes, make_project
from batch_assets_tests.told import by_mail
from batch_assets_tests.toys import make_rows, write_source

MORNING = datetime.fromisoformat(FIRST).replace(hour=6, tzinfo=UTC) + timedelta(days=1)


@pytest.fixture
def due(tmp_path, root, registry, monkeypatch, web, post):
    """A project whose first day is to be served at 06:00 of the day after."""
    alerts = {"receivers": [{"kind": "webhook"}, by_mail(post)]}
    declared = attributes(
        alerts=alerts, ready_by="06:00", end_day=date.fromisoformat(FIRST)
    )
    project = make_project(tmp_path / "project", root, monkeypatch, [declared])
    write_source(project.folder, make_rows(200), day=FIRST)
    return project, TypeAdapter(PipelineSpec).validate_python(declared)


def kinds_of(web):
    return [message["data"]["kind"] for message in web.messages]


def look(due, instance, at: datetime):
    project, spec = due
    more = deadline_conditions(spec, instance)
    return watch(spec, project.root, lambda: at, more)


def test_it_is_at_risk_then_missed_each_told_once_and_over_when_it_is_served(
    due, instance, web, post
):
    project, spec = due
    assert project.materialize("toy", ["raw_features"], FIRST, instance).success

    look(due, instance, MORNING - timedelta(minutes=10))
    look(due, instance, MORNING - timedelta(minutes=5))
    assert kinds_of(web) == ["deadline_at_risk"]

    look(due, instance, MORNING + timedelta(minutes=7))
    look(due, instance, MORNING + timedelta(minutes=12))
    assert kinds_of(web) == ["deadline_at_risk", "deadline_missed"]
    missed = web.messages[-1]["data"]
    assert missed["day"] == FIRST
    assert missed["numbers"]["stage"] == "validated_features"
    assert missed["numbers"]["late_by_seconds"] == 7 * 60
    assert missed["next_command"] == f"batch-assets run toy --day {FIRST}"
    assert len(post.received) == 2
    assert "deadline missed" in post.received[-1]["subject"]

    assert project.run("toy", FIRST, instance).success
    look(due, instance, datetime.now(UTC))
    assert all("resolved: " in headline for headline in web.headlines[2:])
    state, _ = AlertRecord(project.root, spec.name).read()
    assert dict(state.open) == {}


def test_a_night_that_is_in_time_is_told_of_to_nobody(due, instance, web):
    project, _ = due
    keep_nights(project.lake("toy"), FIRST)
    assert project.run("toy", FIRST, instance).success
    look(due, instance, MORNING - timedelta(minutes=10))
    assert web.messages == []


def test_a_pipeline_without_a_deadline_has_no_condition(instance):
    spec = PipelineSpec.model_validate(attributes())
    assert deadline_conditions(spec, instance) == ()
