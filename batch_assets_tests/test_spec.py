"""The YAML's types: every wrong declaration is refused, and says what is right."""

import pytest
from pydantic import ValidationError

from batch_assets.errors import ConfigError
from batch_assets.spec import (
    ENGINES,
    RECEIVERS,
    SINKS,
    SOURCES,
    GateLimits,
    engine_named,
)
from batch_assets_tests.toys import make_spec

CASSANDRA = {
    "kind": "cassandra",
    "hosts": ["10.0.0.1"],
    "data_center": "dc1",
    "keyspace": "serving",
    "experimental": True,
}
MAIL = {
    "kind": "email",
    "host": "smtp.example.org",
    "sender": "nights@example.org",
    "to": ["ada@example.org"],
}


def alerts(*receivers, **changes):
    return {"alerts": {"receivers": list(receivers)} | changes}


def test_a_spec_says_little_and_knows_the_rest():
    spec = make_spec()

    assert (spec.timezone, spec.schedule) == ("UTC", "30 0 * * *")
    assert (spec.engine.kind, spec.allow_empty, spec.end_day) == ("local", False, None)
    assert (spec.serving.keep, spec.gates) == (7, GateLimits())


@pytest.mark.parametrize(
    "changes",
    [
        {"owners": ["team:growth", "ada@example.org"]},
        {"end_day": "2026-01-01"},
        {"timezone": "Europe/Oslo"},
        {"schedule": "5 23 * * *"},
        {"source": {"kind": "sql", "query": "features.sql"}},
        {"source": {"kind": "delta", "table": "events"}},
        {"shards": 1},
        {"shards": 10_000},
        {"gates": {"max_quarantine_share": 0, "min_coverage": 1}},
        {"serving": {"keep": 2}},
        {"engine": "local"},
        {"engine": "ray"},
        {"engine": {"kind": "ray", "workers": 40, "gpus_per_worker": 0.25}},
        {"engine": {"kind": "ray", "gpus_per_worker": 2}},
        {"engine": {"kind": "ray", "resource": "kuberay"}},
        {"engine": "spark"},
        {"engine": {"kind": "spark", "settings": {"spark.master": "yarn"}}},
        {"sinks": [{"kind": "redis"}, {"kind": "postgres"}]},
        {"sinks": [{"kind": "redis"}, {"kind": "redis", "name": "other", "keep": 9}]},
        {"sinks": [{"kind": "redis", "url_env": "MY_URL", "prefix": "toys"}]},
        {"sinks": [{"kind": "postgres", "dsn_env": "MY_DSN", "db_schema": "toys"}]},
        {"sinks": [CASSANDRA]},
        {"ready_by": "06:00", "cost_per_hour": 3.2},
        {"ready_by": "00:31", "cost_per_hour": 0},
        {"ready_by": "06:00", "schedule": "0 23 * * *"},
        {"ready_by": "11:59", "schedule": "0 12 * * *"},
        alerts({"kind": "log"}, {"kind": "webhook"}, MAIL, {"kind": "apprise"}),
        alerts({"kind": "log"}, {"kind": "log", "name": "loud", "only": ["gate_shut"]}),
        alerts({"kind": "log"}, repeat_hours=0.5, sink_lag_minutes=0),
        alerts(MAIL | {"user_env": "U", "password_env": "P", "security": "tls"}),
        alerts(MAIL | {"security": "none", "port": 2525}),
    ],
    ids=str,
)
def test_a_right_declaration_is_taken(changes):
    make_spec(**changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "Toy"}, "should match pattern"),
        ({"name": "1toy"}, "should match pattern"),
        ({"name": "../toy"}, "should match pattern"),
        ({"owners": ["ada"]}, "'team:name' or an e-mail address, got 'ada'"),
        ({"owners": ["team:"]}, "got 'team:'"),
        ({"owners": ["ada@home"]}, "got 'ada@home'"),
        ({"start_day": "yesterday"}, "start_day"),
        ({"end_day": "2025-12-31"}, "end_day 2025-12-31 is before start_day 2026-01-0"),
        ({"timezone": "Mars/Olympus"}, "such as 'Europe/Oslo', got 'Mars/Olympus'"),
        ({"schedule": "0 * * * *"}, "'MINUTE HOUR \\* \\* \\*', got"),
        ({"schedule": "*/5 1 * * *"}, "once a day"),
        ({"schedule": "0 1 * * 1"}, "once a day"),
        ({"schedule": "@daily"}, "once a day"),
        ({"source": {"kind": "excel", "glob": "a"}}, ", ".join(map(repr, SOURCES))),
        ({"source": {"kind": "parquet", "globe": "a"}}, "Extra inputs"),
        ({"model": {}}, "model.name"),
        ({"shards": 0}, "greater than or equal to 1"),
        ({"shards": 10_001}, "less than or equal to 10000"),
        ({"row_group_rows": 0}, "greater than or equal to 1"),
        ({"chunk_rows": 0}, "greater than or equal to 1"),
        ({"engine": "dask"}, f"an engine is one of {', '.join(ENGINES)}, got 'dask'"),
        ({"engine": {"workers": 2}}, "engine\\n  Unable to .* 'kind'"),
        ({"engine": {"kind": "ray", "wrkers": 2}}, "engine.ray.wrkers"),
        (
            {"engine": {"kind": "ray", "gpus_per_worker": 1.5}},
            "a share of one GPU or whole GPUs, got 1.5",
        ),
        (
            {"engine": {"kind": "ray", "address": "auto", "resource": "kuberay"}},
            "by `address` or by `resource`, got both",
        ),
        ({"engine": {"kind": "spark", "workers": 2}}, "engine.spark.workers"),
        (
            {"engine": {"kind": "spark", "settings": {"master": "yarn"}}},
            "begins with 'spark.', got 'master'",
        ),
        ({"gates": {"max_quarantine_share": 1.1}}, "less than or equal to 1"),
        ({"gates": {"max_dead_letter_share": -0.1}}, "greater than or equal to 0"),
        ({"gates": {"min_coverage": 99}}, "less than or equal to 1"),
        ({"gates": {"max_volume_change": 0}}, "greater than 0"),
        ({"gates": {"volume_days": 0}}, "greater than or equal to 1"),
        ({"gates": {"warn_psi": 0}}, "greater than 0"),
        ({"gates": {"max_psi": 0}}, "greater than 0"),
        ({"gates": {"max_phi": 1}}, "Extra inputs"),
        ({"serving": {"keep": 1}}, "greater than or equal to 2"),
        ({"sharts": 4}, "Extra inputs"),
        ({"sinks": [{"kind": "memcached"}]}, ", ".join(map(repr, SINKS))),
        ({"sinks": [{"kind": "redis"}] * 2}, "two sinks are named 'redis': give one"),
        ({"sinks": [{"kind": "redis", "url": "redis://:s3cret@host"}]}, "Extra inputs"),
        ({"sinks": [{"kind": "redis", "prefix": "a:b"}]}, "should match pattern"),
        ({"sinks": [{"kind": "redis", "keep": 1}]}, "greater than or equal to 2"),
        ({"sinks": [CASSANDRA | {"hosts": []}]}, "at least 1 item"),
        ({"sinks": [{"kind": "cassandra"}]}, "keyspace"),
        (
            {"sinks": [CASSANDRA | {"experimental": False}]},
            "'cassandra' is experimental: .* no Cassandra. Say `experimental: true`",
        ),
        ({"sinks": [{"kind": "redis", "experimental": True}]}, "Extra inputs"),
        ({"ready_by": "6:00"}, "HH:MM in quotes, such as '06:00', got '6:00'"),
        ({"ready_by": "24:00"}, "got '24:00'"),
        ({"ready_by": "06:00:00"}, "got '06:00:00'"),
        ({"ready_by": "soon"}, "got 'soon'"),
        ({"ready_by": ""}, "got ''"),
        ({"ready_by": 630}, "got '630', which YAML makes of 10:30 .*: write '10:30'"),
        ({"ready_by": 6}, "such as '06:00', got '6'"),
        ({"ready_by": 21_600}, "such as '06:00', got '21600'"),
        ({"ready_by": True}, "such as '06:00', got 'True'"),
        ({"ready_by": ["06:00"]}, "such as '06:00', got '.'06:00'.'"),
        ({"ready_by": "00:30"}, "begins at 00:30 .*, so it can't be ready by 00:30"),
        ({"ready_by": "00:29"}, "begin earlier, or say a later `ready_by`"),
        (
            {"ready_by": "06:00", "schedule": "30 6 * * *"},
            "the night begins at 06:30 .*, so it can't be ready by 06:00",
        ),
        ({"ready_by": "12:00", "schedule": "0 12 * * *"}, "can't be ready by 12:00"),
        ({"cost_per_hour": -1}, "greater than or equal to 0"),
        ({"cost_per_hour": float("nan")}, "finite number"),
        ({"alerts": {}}, "alerts.receivers"),
        (alerts(), "at least 1 item"),
        ({"alerts": {"receivers": {"kind": "log"}}}, "valid list"),
        (alerts({"kind": "pager"}), ", ".join(map(repr, RECEIVERS))),
        (alerts({"kind": "log"}, {"kind": "log"}), "two receivers are named 'log'"),
        (alerts({"kind": "log", "only": ["gate_open"]}), "'gate_shut'"),
        (alerts({"kind": "log", "only": "gate_shut"}), "valid tuple"),
        (alerts({"kind": "log", "only": []}), "at least 1 item"),
        (alerts({"kind": "webhook", "secret": "whsec_x"}), "Extra inputs"),
        (alerts({"kind": "webhook", "url_env": "https://x/y"}), "match pattern"),
        (alerts({"kind": "log"}, repeat_hours=0), "greater than 0"),
        (alerts({"kind": "log"}, repeat_hours=float("inf")), "finite number"),
        (alerts({"kind": "log"}, sink_lag_minutes=-1), "greater than or equal to 0"),
        (alerts(MAIL | {"to": []}), "at least 1 item"),
        (alerts(MAIL | {"to": "ada@example.org"}), "valid tuple"),
        (alerts(MAIL | {"to": ["ada"]}), "match pattern"),
        (alerts(MAIL | {"to": ["a@x.org\nBcc: b@y.org"]}), "match pattern"),
        (alerts(MAIL | {"sender": "Night <n@x.org>"}), "match pattern"),
        (alerts(MAIL | {"port": 0}), "greater than or equal to 1"),
        (alerts(MAIL | {"security": "ssl"}), "'starttls', 'tls' or 'none'"),
        (alerts(MAIL | {"user_env": "U"}), "go together, got one of them"),
        (
            alerts(MAIL | {"user_env": "U", "password_env": "P", "security": "none"}),
            "a password is not sent in the clear",
        ),
    ],
    ids=str,
)
def test_a_wrong_declaration_is_refused(changes, error):
    with pytest.raises(ValidationError, match=error):
        make_spec(**changes)


@pytest.mark.parametrize("schedule", ["60 1 * * *", "0 24 * * *", "99 99 * * *"])
def test_an_hour_that_no_clock_shows_is_refused(schedule):
    with pytest.raises(ValidationError, match="schedule"):
        make_spec(schedule=schedule)


def test_an_engine_says_which_resources_it_needs():
    named = {"kind": "ray", "resource": "kuberay", "gpus_per_worker": 1}
    engine = make_spec(engine=named).engine

    assert engine.needs == {"kuberay"}
    assert engine.without_model().gpus_per_worker is None
    for kind in ENGINES:
        assert make_spec(engine=kind).engine.needs == set()
        assert make_spec(engine=kind).engine.remote == (kind != "local")


def test_a_spec_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        make_spec().shards = 3


def test_an_engine_in_one_word_is_that_engine_without_settings():
    assert make_spec(engine="ray").engine == make_spec(engine={"kind": "ray"}).engine


def test_another_engine_than_the_declared_one_has_no_settings_of_it():
    declared = make_spec(engine={"kind": "ray", "workers": 40}).engine

    assert engine_named("ray", declared) is declared
    assert engine_named("local", declared) == make_spec().engine
    assert engine_named("spark", declared) == make_spec(engine="spark").engine
    with pytest.raises(ConfigError, match=f"{', '.join(ENGINES)}, got 'dask'"):
        engine_named("dask", declared)
