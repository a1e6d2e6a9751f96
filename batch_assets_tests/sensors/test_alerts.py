"""Nights through Dagster whose alerts arrive: what shut, the numbers, what to do next."""

import click
import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import redis

from batch_assets.alerts.record import AlertRecord
from batch_assets.component import ScoringPipeline
from batch_assets.errors import PipelineError
from batch_assets.launch.project import load_definitions
from batch_assets.launch.runner import PipelineRunner
from batch_assets.sensors.alerts import DECLARED, DONE, FAILED, WATCH
from batch_assets_tests.commands import invoke
from batch_assets_tests.listeners import PATH, SECRET
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    attributes,
    make_project,
    write_project,
)
from batch_assets_tests.servers import free_port
from batch_assets_tests.told import by_mail
from batch_assets_tests.toys import make_rows, write_source

pytestmark = pytest.mark.slow

QUARANTINE = "quarantine_share_is_within_limit"


def with_bad_ages(rows=1_000, bad=30):
    """Rows of which some are put in quarantine."""
    table = make_rows(rows)
    ages = pc.if_else(
        pc.less_equal(table["user_id"], bad), pa.scalar(-1, pa.int16()), table["age"]
    )
    return table.set_column(1, "age", ages)


def tick(project, instance, name, cursor=None):
    """What the daemon does with a sensor, from where it was."""
    sensor = next(s for s in project.definitions.sensors if s.name == f"toy_{name}")
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        repository_def=project.definitions.get_repository_def(),
        resources={"storage": project.definitions.resources["storage"]},
        sensor_name=sensor.name,
    ) as context:
        return sensor.evaluate_tick(context)


def see(project, instance, result):
    """Let the sensors of runs see a run that has ended."""
    name = f"toy_{DONE if result.success else FAILED}"
    sensor = next(s for s in project.definitions.sensors if s.name == name)
    storage = project.definitions.resources["storage"]
    with dg.build_run_status_sensor_context(
        sensor_name=name,
        dagster_event=result.all_events[-1],
        dagster_instance=instance,
        dagster_run=instance.get_run_by_id(result.run_id),
        resources={"storage": storage},
    ) as context:
        return sensor(context).skip_message


def run(project, instance, day=SECOND, **arguments):
    result = project.run("toy", day, instance, **arguments)
    return result, see(project, instance, result)


def test_a_gate_that_shuts_is_one_alert_with_numbers_and_the_mended_night_ends_it(
    served, instance, web, post
):
    version = served.snapshots("toy").must_serve()
    write_source(served.folder, with_bad_ages(), day=SECOND)
    result, said = run(served, instance)

    assert not result.success
    assert said == "2 of 2 messages arrived"
    ((_, body),) = web.received
    (message,) = web.messages
    about = message["data"]
    assert (about["kind"], about["day"]) == ("gate_shut", SECOND)
    assert about["subject"] == QUARANTINE
    assert "30 of 1,000 raw rows are quarantined" in about["summary"]
    assert about["numbers"]["share"] == 0.03
    assert about["numbers"]["limit"] == 0.01
    assert about["served"]["version"] == version
    assert about["served"]["day"] == FIRST
    assert about["next_command"] == f"batch-assets books toy --day {SECOND}"
    assert post.subjects == [f"[toy] {SECOND} gate shut: {QUARANTINE}"]
    for part in ("3 %", "1 %", version, about["next_command"], "max_quarantine_share"):
        assert part in post.texts[0], part

    # Not all rows are scored, so the books are open.
    shown = invoke(*about["next_command"].split()[1:], fails=True)
    assert "quarantined" in shown
    assert "1,000" in shown

    # The same night again, and the same run seen twice.
    again, said = run(served, instance)
    assert (again.success, said) == (False, "nothing is news")
    assert see(served, instance, again) == "nothing is news"
    assert len(web.received) == len(post.received) == 1

    write_source(served.folder, make_rows(1_000), day=SECOND)
    mended, _ = run(served, instance)
    assert mended.success
    assert web.headlines[1:] == [f"[toy] {SECOND} resolved: gate shut: {QUARANTINE}"]
    assert post.subjects[1:] == web.headlines[1:]
    now = served.snapshots("toy").must_serve()
    assert web.messages[1]["data"]["served"]["version"] == now != version
    assert run(served, instance)[1] == "nothing is news"


def test_the_scorers_own_refusal_is_the_same_alert_and_publishing_ends_it(
    served, instance, web
):
    """Launched alone, the scorer finds the gate shut that the night before found."""
    write_source(served.folder, with_bad_ages(), day=SECOND)
    served.run("toy", SECOND, instance)  # Which nobody saw.
    alone = served.materialize("toy", ["predictions", "dead_letters"], SECOND, instance)
    see(served, instance, alone)

    (message,) = web.messages
    assert (message["data"]["kind"], message["data"]["subject"]) == (
        *("gate_shut", QUARANTINE),
    )
    assert "30 of 1,000 raw rows" in message["data"]["summary"]
    run(served, instance)
    assert len(web.messages) == 1

    write_source(served.folder, make_rows(1_000), day=SECOND)
    served.run("toy", SECOND, instance)  # Which nobody saw either.
    published = served.materialize("toy", ["serving_snapshot"], SECOND, instance)
    see(served, instance, published)
    assert [m["type"] for m in web.messages] == ["alert.raised", "alert.resolved"]


def test_a_release_that_two_steps_miss_is_one_alert_with_the_command_that_lists_them(
    served, instance, web, toy_release
):
    served.registry.revoke("toy", toy_release.digest, why="it favours cats", by="bob")
    write_source(served.folder, make_rows(1_000), day=SECOND)
    run(served, instance)

    (message,) = web.messages
    assert message["data"]["kind"] == "run_failed"
    assert "it favours cats" in message["data"]["summary"]
    assert message["data"]["next_command"] == "batch-assets release list"


def test_a_step_that_fails_is_told_with_its_reason(served, instance, web):
    result, _ = run(served, instance)  # There is no source.

    (message,) = web.messages
    about = message["data"]
    assert (about["kind"], about["subject"]) == ("run_failed", "raw_features")
    assert "no file matches" in about["summary"]
    assert "Traceback" not in about["details"]
    assert about["numbers"]["run_id"] == result.run_id
    assert about["next_command"] == f"batch-assets run toy --day {SECOND}"

    write_source(served.folder, make_rows(1_000), day=SECOND)
    run(served, instance)
    assert web.headlines[1:] == [f"[toy] {SECOND} resolved: run failed: raw_features"]


def test_a_check_that_warns_is_told_with_its_numbers(served, instance, web):
    for number in range(2, 5):
        day = f"2026-01-{5 + number:02d}"
        write_source(served.folder, make_rows(1_000, seed=number), day=day)
        run(served, instance, day)
    web.received.clear()
    write_source(served.folder, make_rows(200), day="2026-01-12")
    result, _ = run(served, instance, "2026-01-12")

    assert result.success
    told = {m["data"]["subject"]: m["data"] for m in web.messages}
    about = told["volume_is_like_the_days_before"]
    assert about["kind"] == "check_warned"
    assert about["numbers"]["raw_rows"] == 200
    assert about["day"] == "2026-01-12"


def lost(project, instance, **tags):
    """Let the sensor see a run that failed without a step: its process is gone."""
    job = project.definitions.resolve_job_def("toy_job")
    started = instance.create_run_for_job(
        job, tags={"dagster/partition": SECOND} | tags
    )
    instance.report_run_failed(started, "Execution of run failed: its worker is gone")
    sensor = next(s for s in project.definitions.sensors if s.name == f"toy_{FAILED}")
    with dg.build_run_status_sensor_context(
        sensor_name=sensor.name,
        dagster_event=instance.all_logs(started.run_id)[-1].dagster_event,
        dagster_instance=instance,
        dagster_run=instance.get_run_by_id(started.run_id),
        resources={"storage": project.definitions.resources["storage"]},
    ) as context:
        sensor(context)


def test_a_run_whose_process_died_is_told(project, instance, web):
    """No step of it says why: Dagster alone knows, from outside."""
    lost(project, instance)

    (message,) = web.messages
    assert message["data"]["subject"] == "toy_job"
    assert "its worker is gone" in message["data"]["summary"]
    assert message["data"]["served"]["version"] is None

    write_source(project.folder, make_rows(1_000), day=SECOND)
    run(project, instance)
    assert [m["type"] for m in web.messages] == ["alert.raised", "alert.resolved"]


def test_a_run_that_dagster_starts_again_by_itself_wakes_nobody(project, instance, web):
    lost(project, instance, **{"dagster/will_retry": "true"})
    assert web.messages == []
    lost(project, instance, **{"dagster/will_retry": "false"})
    assert [m["data"]["kind"] for m in web.messages] == ["run_failed"]


def test_a_host_may_come_from_the_environment(monkeypatch, post):
    monkeypatch.setenv("SMTP_HOST", "smtp.example.org")
    mail = by_mail(post) | {"host": "{{ env.SMTP_HOST }}"}
    component = ScoringPipeline.from_attributes_dict(
        attributes=attributes(alerts={"receivers": [mail]}),
        context=dg.ComponentTree.for_test().load_context,
    )
    (receiver,) = component.spec.alerts.receivers
    assert receiver.host == "smtp.example.org"


def test_a_run_of_another_pipeline_is_not_told_of(
    tmp_path, root, registry, monkeypatch, instance, web, post
):
    alerts = {"receivers": [{"kind": "webhook"}]}
    project = make_project(
        tmp_path / "two",
        root,
        monkeypatch,
        [attributes(alerts=alerts), attributes(name="other")],
    )
    result = project.run("other", FIRST, instance)
    assert not result.success
    see(project, instance, result)
    assert web.received == []


def test_the_daemons_ticks_tell_of_runs_that_have_no_code_location(
    served, instance, web
):
    """Those of the command line and of `dg launch`."""
    first = tick(served, instance, FAILED)  # From now on.
    write_source(served.folder, with_bad_ages(), day=SECOND)
    served.run("toy", SECOND, instance)
    done = tick(served, instance, FAILED, first.cursor)

    assert [m["data"]["subject"] for m in web.messages] == [QUARANTINE]
    assert "arrived" in done.skip_message
    tick(served, instance, FAILED, done.cursor)
    assert len(web.messages) == 1


def test_the_watch_tells_of_a_stale_snapshot_and_tries_again_what_did_not_arrive(
    served, instance, web, post, monkeypatch
):
    store = served.snapshots("toy")
    version = store.version_folder(store.must_serve())
    manifest = store.manifest(store.must_serve())
    old = manifest.model_copy(update={"stale_after_seconds": 0.0})
    whole = (version / "manifest.json").read_text("utf-8")
    (version / "manifest.json").chmod(0o644)
    (version / "manifest.json").write_text(old.dumps(), "utf-8")
    monkeypatch.setenv("ALERTS_WEBHOOK_URL", "http://127.0.0.1:9" + PATH)
    said = tick(served, instance, WATCH).skip_message
    assert said.startswith("1 of 2 messages arrived; webhook: http://127.0.0.1:9 ")
    assert post.subjects == ["[toy] snapshot stale: serving_snapshot"]

    monkeypatch.setenv("ALERTS_WEBHOOK_URL", web.url)
    assert tick(served, instance, WATCH).skip_message == "1 of 1 messages arrived"
    assert tick(served, instance, WATCH).skip_message == "nothing is news"
    assert web.headlines == post.subjects

    (version / "manifest.json").write_text(whole, "utf-8")
    tick(served, instance, WATCH)
    assert post.subjects[1:] == ["[toy] resolved: snapshot stale: serving_snapshot"]


def test_a_night_of_the_command_line_is_told_once_and_the_daemon_adds_nothing(
    served, instance, web
):
    write_source(served.folder, with_bad_ages(), day=SECOND)
    first = tick(served, instance, FAILED)
    runner = PipelineRunner(served.definitions, instance, "toy")

    assert not runner.run_night(SECOND).success
    assert [m["data"]["subject"] for m in web.messages] == [QUARANTINE]
    tick(served, instance, FAILED, first.cursor)
    assert len(web.messages) == 1

    write_source(served.folder, make_rows(1_000), day=SECOND)
    assert runner.run_night(SECOND).success
    assert [m["type"] for m in web.messages] == ["alert.raised", "alert.resolved"]


def test_whatever_becomes_of_the_alerts_the_night_is_what_it_is(
    served, instance, web, monkeypatch, caplog
):
    write_source(served.folder, make_rows(1_000), day=SECOND)
    monkeypatch.setattr(AlertRecord, "read", lambda _: 1 / 0)
    report = PipelineRunner(served.definitions, instance, "toy").run_night(SECOND)

    assert report.success
    assert report.served_version.startswith(SECOND)
    assert "nobody was told of run" in caplog.text


def test_a_day_of_a_range_is_told_of_by_itself(
    tmp_path, root, registry, monkeypatch, instance, web
):
    alerts = {"receivers": [{"kind": "webhook"}]}
    # As `dg launch --partition-range` declares the assets.
    with click.Context(click.Command("launch")) as context:
        context.params["partition_range"] = f"{FIRST}...{SECOND}"
        project = make_project(
            tmp_path / "range", root, monkeypatch, [attributes(alerts=alerts)]
        )
    write_source(project.folder, make_rows(1_000), day=FIRST)
    write_source(project.folder, with_bad_ages(), day=SECOND)
    result = project.definitions.resolve_job_def("toy_job").execute_in_process(
        instance=instance,
        raise_on_error=False,
        tags={
            "dagster/asset_partition_range_start": FIRST,
            "dagster/asset_partition_range_end": SECOND,
        },
    )
    assert not result.success
    see(project, instance, result)

    assert [(m["data"]["day"], m["data"]["subject"]) for m in web.messages] == [
        (SECOND, QUARANTINE)
    ]


def test_the_sensors_run_unless_somebody_stops_them_and_hold_no_secret(project, web):
    dg.Definitions.validate_loadable(project.definitions)
    sensors = {sensor.name: sensor for sensor in project.definitions.sensors}

    assert set(sensors) == {f"toy_{name}" for name in (FAILED, DONE, WATCH)}
    for sensor in sensors.values():
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
        text = repr(sensor.metadata[DECLARED].value)
        assert "ALERTS_WEBHOOK_SECRET" in text
        assert SECRET not in text
        assert PATH not in text


def test_without_alerts_there_is_no_sensor_and_nothing_is_written(
    tmp_path, root, registry, monkeypatch, instance
):
    project = make_project(tmp_path / "p", root, monkeypatch, [attributes()])
    runner = PipelineRunner(project.definitions, instance, "toy")

    assert not runner.run_night(FIRST).success
    assert list(project.definitions.sensors or []) == []
    assert not (root / "alerts").exists()


def test_a_sink_that_is_down_is_one_alert_and_the_next_look_ends_it(
    tmp_path, root, registry, monkeypatch, instance, web, post, redis_here
):
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    pipeline = attributes(
        alerts={"receivers": [{"kind": "webhook"}, by_mail(post)]},
        sinks=[{"kind": "redis"}],
    )
    project = make_project(tmp_path / "sinks", root, monkeypatch, [pipeline])
    write_source(project.folder, make_rows(500), day=FIRST)
    assert not run(project, instance, FIRST)[0].success
    tick(project, instance, WATCH)

    assert web.headlines == ["[toy] sink lags: redis"]
    assert web.messages[0]["data"]["next_command"] == "batch-assets sinks follow toy"
    monkeypatch.setenv("REDIS_URL", redis_here.url)
    try:
        assert run(project, instance, FIRST)[0].success
        tick(project, instance, WATCH)
    finally:
        with redis.Redis.from_url(redis_here.url) as client:
            client.flushdb()
    assert web.headlines[1:] == ["[toy] resolved: sink lags: redis"]


@pytest.mark.parametrize(
    ("receiver", "said"),
    [
        ({"kind": "webhook", "url_env": "https://h/T0KEN"}, "url_env"),
        ({"kind": "webhook", "secret": "T0KEN"}, "no field of that name"),
        ({"kind": "webhook", "on": ["gate_shut"]}, "no field of that name"),
        ({"kind": "log", "only": ["gate_open"]}, "'gate_shut'"),
    ],
    ids=["a URL for its variable", "a secret", "on", "no such kind"],
)
def test_a_wrong_yaml_is_explained_without_what_may_be_a_secret(
    tmp_path, monkeypatch, receiver, said
):
    module = f"wrong_{abs(hash(str(receiver)))}"
    pipeline = attributes(alerts={"receivers": [receiver]})
    write_project(tmp_path / "p", module, [pipeline])
    monkeypatch.chdir(tmp_path / "p")
    monkeypatch.syspath_prepend(str(tmp_path / "p"))
    with pytest.raises(PipelineError) as error:
        load_definitions()

    assert said in str(error.value)
    assert "T0KEN" not in str(error.value)
