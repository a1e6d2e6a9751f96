"""What the doctor says when a thing is broken, each broken for real."""

import errno
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from batch_assets.launch.doctor import machine, places, project
from batch_assets.launch.doctor.examine import LOOKS, examine
from batch_assets.launch.doctor.findings import Examined, Finding
from batch_assets.resources import GpuResource
from batch_assets.storage import Versioned
from batch_assets.storage.directory import DirectoryStore
from batch_assets_tests.commands import batch_assets
from batch_assets_tests.projects import FLIGHTS, attributes, make_project, write_project
from batch_assets_tests.sensors.test_deadlines import start_schedule
from batch_assets_tests.servers import free_port, redis_server
from batch_assets_tests.toys import make_spec

NOBODY = 65_534
REDIS = {"kind": "redis", "url_env": "DOCTORS_REDIS"}
HOOK = {"kind": "webhook", "url_env": "DOCTORS_HOOK", "secret_env": "DOCTORS_SECRET"}


def seen(
    look, root: Path, definitions: dg.Definitions | None = None, **changes
) -> Finding:
    """The one line of a look at a pipeline with these attributes."""
    examined = Examined(root, definitions, [make_spec(**changes)])
    (finding,) = look(examined)
    return finding


@contextmanager
def as_nobody():
    """As a user who may write nowhere: to root, a folder without rights is like others."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def installed(folder: Path, *lines: str) -> None:
    """Another `batch-assets` as far as its metadata goes, which is found first.

    MLflow imports this other reader of metadata, which answers for Python's from then on
    and raises where that has nothing to say.
    """
    importlib.import_module("importlib_metadata")
    info = folder / "batch_assets-9.dist-info"
    info.mkdir(parents=True)
    head = "Metadata-Version: 2.1\nName: batch-assets\nVersion: 9\n"
    (info / "METADATA").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def front(tmp_path, monkeypatch) -> Path:
    """A folder that Python looks into first."""
    monkeypatch.syspath_prepend(str(tmp_path / "front"))
    return tmp_path / "front"


def test_what_is_installed_is_what_is_needed(root):
    finding = seen(machine.versions, root)
    assert finding.state == "ok"
    assert "torch" in finding.found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Requires-Dist: torch>=99", "expected >=99"),
        ("Requires-Dist: there-is-none", "there-is-none is not installed"),
        ("Requires-Python: >=3.99", "expected >=3.99"),
    ],
)
def test_another_version_than_is_needed_is_named(root, front, line, said):
    installed(front, line)
    finding = seen(machine.versions, root)
    assert (finding.state, said in finding.found) == ("bad", True)


def test_the_extra_of_a_pipelines_sink_is_named_and_no_other(root, front):
    installed(
        front,
        'Requires-Dist: there-is-none>=2; extra == "redis"',
        'Requires-Dist: nor-this; extra == "postgres"',
    )
    finding = seen(machine.extras, root, sinks=[REDIS])
    assert finding.found == "toy needs the extra redis: there-is-none is not installed"
    assert finding.mend == "pip install 'batch-assets[redis]'"
    assert seen(machine.extras, root).state == "ok"


def test_an_extra_that_another_brings_along_is_looked_for(root, front):
    installed(
        front,
        'Requires-Dist: batch-assets[postgres]; extra == "redis"',
        'Requires-Dist: there-is-none; extra == "postgres"',
    )
    assert machine.lacking("redis") == ["there-is-none is not installed"]


def test_a_device_that_is_not_there_is_named(root):
    definitions = dg.Definitions(resources={"gpu": GpuResource(device="cuda:7")})
    assert seen(machine.device, root).state == "ok"
    assert seen(machine.device, root, definitions).state == "bad"


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ('openjdk version "17.0.2"', "ok"),
        ('java version "1.8.0"', "bad"),
        (None, "bad"),
    ],
)
def test_java_is_looked_for_where_spark_starts_it(
    root, tmp_path, monkeypatch, version, state
):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    if version:
        java.write_text(f"#!/bin/sh\necho '{version}' >&2\n", encoding="utf-8")
        java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    finding = seen(machine.java, root, engine="spark")

    assert finding.state == state
    assert "openjdk-17" in (finding.mend or "openjdk-17")
    connect = {"kind": "spark", "settings": {"spark.remote": "sc://there"}}
    for spec in (make_spec(), make_spec(engine=connect)):
        assert list(machine.java(Examined(root, None, [spec]))) == []


def test_a_root_that_is_not_there_is_tried_and_left_as_it_was(root):
    deeper = root / "not" / "yet"
    for look in (places.permissions, places.replacing, places.room):
        assert seen(look, deeper).state in ("ok", "warn")
    assert list(root.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_bad(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with as_nobody():
        findings = [
            seen(look, locked) for look in (places.permissions, places.replacing)
        ]
    assert [finding.state for finding in findings] == ["bad", "bad"]
    assert "Permission denied" in findings[0].found
    assert "BATCH_ASSETS_ROOT" in str(findings[0].mend)


def overwrites(_: object, local_path: Path, path: Path) -> bool:
    local_path.replace(path)
    return True


def writes_in_two_steps(_: object, local_path: Path, path: Path) -> None:
    data = local_path.read_bytes()
    with path.open("wb") as file:
        file.write(data[:100])
        file.flush()
        time.sleep(0.01)
        file.write(data[100:])


def replaces_anyway(_: object, path: Path, data: bytes, seen: Versioned) -> Versioned:
    path.write_bytes(data)
    return Versioned(data)


@pytest.mark.parametrize(
    ("method", "broken", "said"),
    [
        ("put_new", overwrites, "two could make the same new file"),
        ("put_file", writes_in_two_steps, "neither old nor new"),
        ("replace_if_unchanged", replaces_anyway, "changed meanwhile was replaced"),
    ],
)
def test_a_store_that_breaks_a_promise_is_bad(root, monkeypatch, method, broken, said):
    """No such file system can be mounted here: the store behaves as on one."""
    monkeypatch.setattr(DirectoryStore, method, broken)
    finding = seen(places.replacing, root)
    assert (finding.state, said in finding.found) == ("bad", True)
    assert list(root.iterdir()) == []


def test_a_file_system_without_hard_links_is_bad(root, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert "there are no hard links" in seen(places.replacing, root).found


def test_a_file_where_the_root_should_be_is_bad(tmp_path):
    (tmp_path / "file").touch()
    assert seen(places.permissions, tmp_path / "file").state == "bad"


def test_the_last_night_must_fit_again(root):
    part = root / "lake/toy/predictions/day=2026-01-05/shard=0/part.parquet"
    part.parent.mkdir(parents=True)
    with part.open("wb") as file:
        # Of which not a byte is written.
        file.truncate(shutil.disk_usage(root).free + (64 << 30))
    older = part.parents[2] / "day=2026-01-04" / "shard=0"
    older.mkdir(parents=True)

    finding = seen(places.room, root)

    assert finding.state == "bad"
    assert "the last nights took" in finding.found


def test_a_schedule_that_runs_without_a_daemon_is_bad(root, tmp_path, monkeypatch):
    made = make_project(tmp_path / "p", root, monkeypatch, [attributes()])
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        before = seen(project.dagster, root, made.definitions)
        start_schedule(instance)
        after = seen(project.dagster, root, made.definitions)

    assert (before.state, after.state) == ("warn", "bad")
    assert "turn on toy_schedule" in str(before.mend)
    assert "SCHEDULER" in after.found


def test_a_sink_is_asked_and_its_variable_named(root, monkeypatch):
    def state() -> tuple[str, str]:
        finding = seen(project.sinks, root, sinks=[REDIS])
        return finding.state, finding.found

    monkeypatch.delenv("DOCTORS_REDIS", raising=False)
    assert state()[0] == "bad"
    assert "DOCTORS_REDIS" in state()[1]
    with redis_server() as server:
        monkeypatch.setenv("DOCTORS_REDIS", server.url)
        assert state() == ("ok", "answers; it serves nothing yet")
    assert state()[0] == "bad"
    monkeypatch.setenv("DOCTORS_REDIS", f"redis://:hidden@127.0.0.1:{free_port()}/0")
    assert "hidden" not in state()[1]


def test_receivers_have_what_they_need_or_it_is_named(root, monkeypatch):
    declared = {"alerts": {"receivers": [HOOK]}}
    assert seen(project.receivers, root).state == "warn"
    lacking = seen(project.receivers, root, **declared)
    assert (lacking.state, "DOCTORS_HOOK" in lacking.found) == ("bad", True)
    monkeypatch.setenv("DOCTORS_HOOK", "https://example.org/hook")
    monkeypatch.setenv("DOCTORS_SECRET", "whsec_" + "YWJj" * 8)
    assert seen(project.receivers, root, **declared).state == "ok"


def test_without_a_project_the_machine_is_looked_at_all_the_same(root, monkeypatch):
    monkeypatch.chdir(root)
    findings = list(examine(root))
    assert [f.name for f in findings if f.state == "bad"] == ["project"]
    assert {"versions", "device", "clock", "storage", "replacing", "disk"} <= {
        finding.name for finding in findings
    }


def test_a_disk_without_room_is_bad_and_stops_no_other_look(tmp_path):
    write_project(tmp_path / "p", "doctored", [attributes()])
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3, 3)); "
        "from batch_assets.cli.main import main; main(['doctor', '--json'])"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path / "p",
        env={**os.environ, "PYTHONPATH": str(FLIGHTS), "BATCH_ASSETS_ROOT": "root"},
        capture_output=True,
        text=True,
    )
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}

    assert done.returncode == 1
    assert findings["storage"]["state"] == "bad"
    assert "File too large" in findings["storage"]["found"]
    assert findings["versions"]["state"] == "ok"
    assert {"storage", "replacing", "disk", "alerts toy"} <= set(findings)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 3


def test_a_project_that_is_well_ends_with_0_and_says_what_may_be_meant(tmp_path):
    write_project(tmp_path / "p", "well", [attributes()])

    text = batch_assets(tmp_path, "doctor").stdout

    assert "BAD" not in text
    assert (
        "mend alerts toy: say under `alerts` in the YAML of toy who is on call" in text
    )
    assert len([line for line in text.splitlines() if line.startswith("ok")]) > 6


def test_every_look_says_in_a_sentence_what_it_does():
    assert all(str(look.__doc__).rstrip().endswith(".") for look in LOOKS)
