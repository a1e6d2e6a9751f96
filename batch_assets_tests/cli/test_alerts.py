"""`batch-assets alerts`: a test message, one look, and what was told."""

import json
import shlex

import click
import pytest

from batch_assets.alerts import commands
from batch_assets.alerts.notifier import Notifier
from batch_assets.cli.main import main
from batch_assets.quality.gates import GATES
from batch_assets.snapshots.gates import SNAPSHOT_GATES
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.commands import invoke
from batch_assets_tests.listeners import PATH, SECRET, http_listener, smtp_listener
from batch_assets_tests.projects import attributes, make_project
from batch_assets_tests.servers import free_port
from batch_assets_tests.told import ALERTS, GATE_SHUT, IDENTITY, NEXT, by_mail, declared


@pytest.fixture
def web(monkeypatch):
    with http_listener() as listener:
        monkeypatch.setenv("ALERTS_WEBHOOK_URL", listener.url)
        monkeypatch.setenv("ALERTS_WEBHOOK_SECRET", SECRET)
        yield listener


@pytest.fixture
def post():
    with smtp_listener() as box:
        yield box


@pytest.fixture
def project(tmp_path, root, monkeypatch, web, post):
    alerts = {"receivers": [{"kind": "webhook"}, by_mail(post)]}
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    pipelines = [attributes(alerts=alerts), attributes(name="quiet")]
    return make_project(tmp_path / "project", root, monkeypatch, pipelines)


def test_a_test_says_what_came_of_each_receiver(project, web, post, monkeypatch):
    assert invoke("alerts", "test", "toy") == "webhook: arrived\nemail: arrived\n"
    assert web.headlines == post.subjects == ["[toy] a test, nothing happened"]

    port = free_port()
    monkeypatch.setenv("ALERTS_WEBHOOK_URL", f"http://127.0.0.1:{port}{PATH}")
    said = invoke("alerts", "test", "toy", fails=True)
    assert f"webhook: FAILED: http://127.0.0.1:{port} (of ALERTS_WEBHOOK_URL)" in said
    assert "email: arrived" in said
    assert PATH.rpartition("/")[2] not in said

    monkeypatch.delenv("ALERTS_WEBHOOK_SECRET")
    outcomes = json.loads(invoke("alerts", "test", "toy", "--json", fails=True))
    assert [(o["receiver"], o["arrived"]) for o in outcomes] == [
        *(("webhook", False), ("email", True)),
    ]
    assert "ALERTS_WEBHOOK_SECRET" in outcomes[0]["why"]


@pytest.mark.parametrize("command", ["test", "look"])
@pytest.mark.parametrize("pipeline", ["quiet", "nosuch"])
def test_of_a_pipeline_that_declares_none_those_that_do_are_named(
    project, command, pipeline
):
    said = invoke("alerts", command, pipeline, fails=True)
    assert f"no pipeline '{pipeline}' declares alerts; those that do: toy." in said


def test_a_look_tells_what_the_watch_would_and_tries_again(project, root, web, post):
    web.answers[:] = [500] * 3
    spec = declared("webhook", by_mail(post))
    Notifier(root, "toy", spec).tell([GATE_SHUT])
    assert web.received == []

    assert invoke("alerts", "look", "toy") == "toy: 1 of 1 messages arrived\n"
    said = json.loads(invoke("alerts", "look", "toy", "--json"))
    assert said == {"pipeline": "toy", "said": "nothing is news"}
    assert web.headlines == post.subjects


def test_the_list_says_what_is_open_and_what_arrived(project, root, web, post):
    assert invoke("alerts", "list", "toy") == "noticed  what    receivers\n"
    web.answers[:] = [401]
    notifier = Notifier(root, "toy", declared("webhook", by_mail(post)))
    notifier.tell([GATE_SHUT])
    notifier.tell([ALERTS["sink_lags"]], [IDENTITY])

    said = invoke("alerts", "list", "toy")
    lines = said.splitlines()
    assert len(lines) == 4
    assert "[toy] 2026-01-05 gate shut: quarantine_share_is_within_limit" in lines[1]
    assert "open" in lines[2]
    assert "sink lags: redis" in lines[2]
    assert "resolved: gate shut" in lines[3]

    newest = invoke("alerts", "list", "toy", "--limit", "1").splitlines()[1:]
    assert [line.split() for line in newest] == [lines[3].split()]
    found = json.loads(invoke("alerts", "list", "toy", "--json"))
    assert [(one["state"], one["open"]) for one in found] == [
        ("raised", False),
        ("raised", True),
        ("resolved", False),
    ]
    assert found[0]["alert"]["numbers"]["raw_rows"] == 918_000
    assert {r: d["state"] for r, d in found[1]["receivers"].items()} == {
        "webhook": "arrived",
        "email": "arrived",
    }


def test_a_line_that_cannot_be_read_is_named(project, root):
    folder = root / "alerts" / "toy"
    folder.mkdir(parents=True)
    (folder / "alerts.jsonl").write_text("{}\n", encoding="utf-8")
    assert "lines that can't be read: [1]" in invoke(
        "alerts", "list", "toy", fails=True
    )


def all_next_commands(root):
    """Every command that an alert may name."""
    store = SnapshotStore(root, "toy")
    steps = [
        *("raw_features", "validated_features", "model_release", "predictions"),
        *("serving_snapshot", "outcomes", "batch_size_sweep", "release_comparison", ""),
    ]
    jobs = ("toy_job", "toy_replay_job", "toy_outcomes_job", "__ASSET_JOB")
    gates = [(gate.asset, gate.name) for gate in (*GATES, *SNAPSHOT_GATES)]
    days = "2026-01-05", None
    return {
        *NEXT.values(),
        *(
            commands.of_gate("toy", asset, gate, day)
            for asset, gate in [*gates, ("outcomes", "auc_is_as_usual"), ("x", "own")]
            for day in days
        ),
        *(
            commands.of_step("toy", job, step, day)
            for job in jobs
            for step in steps
            for day in (*days, "2026-01-05...2026-01-07")
        ),
        commands.of_stale("toy", store, "2026-01-05"),
        commands.of_sink("toy"),
        "batch-assets snapshot unpin toy --why …",
        "batch-assets snapshot unblock toy --why …",
    }


def test_every_next_command_is_one_that_there_is(root):
    found = all_next_commands(root)
    assert len(found) > 10
    for text in found:
        program, *words = shlex.split(text)
        assert program == "batch-assets"
        command: click.Command = main
        while isinstance(command, click.Group):
            assert words[0] in command.commands, text
            command = command.commands[words.pop(0)]
        # Its options and arguments are read, and it is not run.
        command.make_context("test", words)
