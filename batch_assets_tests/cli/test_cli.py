"""The command line as a person uses it: answers, JSON, and errors in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets_tests.commands import batch_assets, invoke
from batch_assets_tests.projects import FLIGHTS, attributes, write_project
from batch_assets_tests.toys import make_rows, write_source

DAY = "2026-01-05"


@pytest.fixture
def cli(root, monkeypatch):
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    return invoke


@pytest.fixture(scope="module")
def night(tmp_path_factory, toy_release):
    """A project whose first night was run with `batch-assets run`, in its own process."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder / "p", "toys_project", [attributes()])
    write_source(folder / "p", make_rows(1_000), day=DAY)
    batch_assets(folder, "release", "add", "toy", str(toy_release.folder))
    batch_assets(folder, "release", "approve", "toy", toy_release.digest, "--why", "ok")
    out = batch_assets(folder, "run", "toy", "--day", DAY, "--json").stdout
    return folder, json.loads(out)


def test_run_reports_the_night_as_json(night):
    _, report = night
    assert report["success"] is True
    assert (report["raw_rows"], report["scored_rows"]) == (1_000, 1_000)
    assert (report["checks_passed"], report["checks"]) == (17, 17)
    assert report["version"] == report["served_version"]


def test_run_again_says_unchanged(night):
    folder, _ = night
    assert "unchanged" in batch_assets(folder, "run", "toy", "--day", DAY).stdout


def test_lookup_answers_with_prediction_release_and_age(night, toy_release):
    folder, _ = night
    text = batch_assets(folder, "lookup", "toy", "7").stdout
    assert "risk" in text
    assert toy_release.short in text
    assert "age" in text
    answer = json.loads(batch_assets(folder, "lookup", "toy", "7", "--json").stdout)
    assert 0 <= answer["outputs"]["risk"] <= 1
    assert answer["model_version"] == toy_release.digest
    assert answer["day"] == DAY
    assert answer["age"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lookup", "toy", "123456789"), "'123456789' is not in version"),
        (("lookup", "toy", "seven"), "the key 'user_id' is an integer, got 'seven'"),
        (("lookup", "tyo", "7"), "there: toy"),
        (("run", "tyo", "--day", DAY), "declared: toy"),
        (("run", "toy", "--day", "2027-01-05"), "2026-01-01 to 2026-01-31"),
        (("books", "toy", "--day", "2026-01-09"), "nothing of that day is committed"),
        (("books", "tyo", "--day", DAY), "there: toy"),
        (("release", "verify", "toy", "abc"), "names 0 releases"),
        (("release", "verify", "tyo"), "no model is named 'tyo'"),
        (("release", "revoke", "toy", "abc", "--why", "x"), "names 0 releases"),
        (("snapshot", "list", "tyo"), "there: toy"),
        (("snapshot", "rollback", "toy", "--why", "x"), "Name a version with --to"),
        (("snapshot", "rollback", "toy", "--why", " "), "nothing is known to have"),
        (("snapshot", "unpin", "toy", "--why", "x"), "nothing is pinned"),
        (("snapshot", "unblock", "toy", "--why", "x"), "is not blocked"),
        (("snapshot", "pin", "toy", "v9", "--why", "x"), "there is no version v9"),
        (("snapshot", "sql", "toy", "SELEC"), "Parser Error"),
        (("snapshot", "sql", "toy", "--version", "v9"), "has no readable"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(night, arguments, said):
    folder, _ = night
    error = batch_assets(folder, *arguments, code=1).stderr
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("key", ["1_0", "１０", " 10", "+10", "9223372036854775808"])
def test_a_key_is_written_in_plain_digits(night, key):
    folder, _ = night
    error = batch_assets(folder, "lookup", "toy", key, code=1).stderr
    assert f"the key 'user_id' is an integer, got {key!r}" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ("lookup", "toy", "7"),
        ("lookup", "toy", "7", "--json"),
        ("books", "toy", "--day", DAY),
        ("snapshot", "sql", "toy", "SELECT * FROM snapshot"),
        ("snapshot", "list", "toy", "--json"),
        ("snapshot", "history", "toy"),
        ("dead-letters", "list", "toy", "--day", DAY),
        ("release", "list"),
    ],
)
def test_whoever_reads_may_stop_reading(night, arguments):
    """As `batch-assets ... | head` does: no word, and the exit code of click."""
    folder, _ = night
    reads, writes = os.pipe()
    os.close(reads)
    found = subprocess.run(
        [sys.executable, "-m", "batch_assets.cli.start", *arguments],
        cwd=folder / "p",
        env={**os.environ, "BATCH_ASSETS_ROOT": str(folder / "root")},
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writes)
    assert (found.returncode, found.stderr) == (1, "")


def test_a_full_disk_and_a_missing_file_are_no_matter_of_the_root(night, tmp_path):
    folder, _ = night
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        found = subprocess.run(
            [sys.executable, "-m", "batch_assets.cli.start", "lookup", "toy", "7"],
            cwd=folder / "p",
            env={**os.environ, "BATCH_ASSETS_ROOT": str(folder / "root")},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert found.returncode == 1
    assert "No space left on device; make room" in found.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    error = batch_assets(folder, "release", "add", "toy", str(empty), code=1).stderr
    assert str(empty) in error
    assert "BATCH_ASSETS_ROOT" not in found.stderr + error


def test_a_root_that_can_not_be_made_is_named(tmp_path, monkeypatch, toy_release):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(tmp_path / "file" / "root"))
    folder = str(toy_release.folder)
    result = CliRunner().invoke(main, ["release", "add", "toy", folder])
    assert result.exit_code == 1
    assert f"<root> is {tmp_path}/file/root, set BATCH_ASSETS_ROOT" in result.output


def test_books_close_and_say_so(night):
    folder, _ = night
    text = batch_assets(folder, "books", "toy", "--day", DAY).stdout
    assert text.count("closes") == 10
    assert "open" not in text
    books = json.loads(
        batch_assets(folder, "books", "toy", "--day", DAY, "--json").stdout
    )
    assert books["closed"] is True
    assert books["shards"]["all"]["raw"] == books["shards"]["all"]["scored"]


def test_snapshot_list_shows_what_is_served(night):
    folder, report = night
    rows = json.loads(batch_assets(folder, "snapshot", "list", "toy", "--json").stdout)
    assert [(row["version"], row["served"]) for row in rows] == [
        (report["version"], True)
    ]
    assert "served" in batch_assets(folder, "snapshot", "list", "toy").stdout


def test_an_operator_goes_back_and_the_next_night_holds(night, tmp_path):
    """At three in the morning, as docs/serving.md tells."""
    first = tmp_path / "night"
    shutil.copytree(night[0], first)
    served = night[1]["version"]
    write_source(first / "p", make_rows(1_000, seed=2), day="2026-01-06")
    report = json.loads(
        batch_assets(first, "run", "toy", "--day", "2026-01-06", "--json").stdout
    )
    wrong = report["served_version"]
    assert wrong != served

    snapshot = ("snapshot", "rollback", "toy", "--by", "ada", "--why", "odd scores")
    before = os.times()
    text = batch_assets(first, *snapshot).stdout
    after = os.times()
    assert f"served now: {served}" in text
    assert "publishing is blocked until" in text
    # Of which all but some milliseconds is Python starting; others may want the processors.
    took = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    assert took < 10
    assert "odd scores" in batch_assets(first, "snapshot", "list", "toy").stdout
    assert lookup(first)["version"] == served

    write_source(first / "p", make_rows(1_000, seed=3), day="2026-01-07")
    held = batch_assets(first, "run", "toy", "--day", "2026-01-07")
    assert "2026-01-07 warns: snapshot_is_served: " in held.stdout
    assert "by ada: odd scores" in held.stdout
    assert lookup(first)["version"] == served

    unblock = ("snapshot", "unblock", "toy", "--why", "the source is mended")
    assert "run the newest day again" in batch_assets(first, *unblock).stdout
    batch_assets(first, "run", "toy", "--day", "2026-01-07")
    assert lookup(first)["day"] == "2026-01-07"

    pin = ("snapshot", "pin", "toy", wrong, "--why", "look at it", "--json")
    assert json.loads(batch_assets(first, *pin).stdout)["served"] == wrong
    assert lookup(first)["version"] == wrong
    batch_assets(first, "snapshot", "unpin", "toy", "--why", "seen")
    acts = json.loads(
        batch_assets(first, "snapshot", "history", "toy", "--json").stdout
    )
    assert [act["act"] for act in acts] == [
        "publish",
        "publish",
        "rollback",
        "held",
        "unblock",
        "publish",
        "pin",
        "unpin",
    ]
    assert (acts[2]["by"], acts[2]["why"]) == ("ada", "odd scores")
    assert acts[0]["why"].endswith(f" of {DAY}")

    path = first / "root" / "snapshots" / "toy" / f"v={wrong}" / "shard=01.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    found = batch_assets(first, "snapshot", "verify", "toy", code=1).stdout
    assert f"{wrong}: {path} hashes to" in found
    assert found.count("every file hashes as published") == 2


def lookup(folder, key="7"):
    return json.loads(batch_assets(folder, "lookup", "toy", key, "--json").stdout)


def test_a_version_is_asked_in_sql(night):
    folder, report = night
    query = "SELECT count(*) AS n, max(p.risk = s.risk) AS same FROM snapshot s JOIN "
    query += "predictions p USING (user_id)"
    found = batch_assets(folder, "snapshot", "sql", "toy", query, "--json").stdout
    assert json.loads(found) == [{"n": 1000, "same": True}]
    path = batch_assets(folder, "snapshot", "sql", "toy").stdout.strip()
    assert path.endswith(f"v={report['version']}/audit.duckdb")
    assert "1000" in batch_assets(folder, "snapshot", "sql", "toy", query).stdout


def test_a_night_that_fails_exits_with_1_and_says_why(night):
    folder, _ = night
    write_source(folder / "p", make_rows(10).drop_columns(["age"]), day="2026-01-06")
    found = batch_assets(folder, "run", "toy", "--day", "2026-01-06", code=1)
    assert "1 missing: 'age'" in found.stderr
    report = json.loads(
        batch_assets(
            folder, "run", "toy", "--day", "2026-01-06", "--json", code=1
        ).stdout
    )
    assert report["success"] is False
    assert len(report["errors"]) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shrads": 4}, "shrads at {yaml}:{line}: there is no field of that name; did you mean 'shards'?"),
        ({"shards": 0}, "shards at {yaml}:{line}: Input should be greater than or equal to 1, got 0"),
        ({"timezone": "Mars/Olympus"}, "timezone at {yaml}:{line}: a timezone is a name such as 'Europe/Oslo', got 'Mars/Olympus'"),
        ({"source": {"kind": "sqll", "query": "x"}}, "'sqll' found using 'kind' does not match any of the expected tags: 'sql', 'parquet', 'delta'"),
        ({"start_day": "soon"}, "start_day at {yaml}:{line}"),
    ],
    ids=["typo", "out of range", "unknown timezone", "unknown source", "no date"],
)  # fmt: skip
def test_a_wrong_yaml_names_file_field_got_and_expected(tmp_path, change, said):
    write_project(tmp_path / "p", "wrong_project", [attributes(**change)])
    error = batch_assets(tmp_path, "run", "toy", "--day", DAY, code=1).stderr
    yaml = (tmp_path / "p/wrong_project/defs/toy/defs.yaml").resolve()
    field = next(iter(change))
    lines = yaml.read_text(encoding="utf-8").splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.startswith(f"  {field}:"))
    assert said.format(yaml=yaml, line=line) in error


def test_release_add_approve_list_verify_revoke(cli, toy_release):
    assert toy_release.digest in cli("release", "add", "toy", str(toy_release.folder))
    assert "added" in cli("release", "list")
    cli("release", "approve", "toy", toy_release.short, "--why", "it is good")
    rows = json.loads(cli("release", "list", "toy", "--json"))
    assert (rows[0]["state"], rows[0]["channel"], rows[0]["in_use"]) == (
        "approved",
        "batch",
        True,
    )
    assert "16 golden rows are reproduced" in cli("release", "verify", "toy")
    said = cli(
        "release", "revoke", "toy", toy_release.short, "--why", "bad", "--by", "bo"
    )
    assert "revoked for batch by bo: bad" in said


def test_release_add_under_another_name_is_refused(cli, toy_release):
    said = cli("release", "add", "other", str(toy_release.folder), fails=True)
    assert "holds a release of 'toy', not of 'other'" in said


def test_verify_sees_one_flipped_bit(cli, root, toy_release):
    cli("release", "add", "toy", str(toy_release.folder))
    path = root / "models" / "toy" / toy_release.digest / "model.pt2"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "not what was registered" in cli("release", "verify", "toy", fails=True)


def test_a_lookup_waits_for_neither_dagster_nor_torch(night):
    folder, _ = night
    code = (
        "import sys; from click.testing import CliRunner; "
        "from batch_assets.cli.main import main; "
        "assert CliRunner().invoke(main, ['lookup', 'toy', '7']).exit_code == 0; "
        "print(sorted({'dagster', 'torch', 'duckdb'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder / "p",
        env={**os.environ, "BATCH_ASSETS_ROOT": str(folder / "root")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_demo_works_twice_and_changes_nothing_the_second_time(tmp_path):
    def demo() -> dict:
        found = subprocess.run(
            [sys.executable, "-m", "batch_assets.cli.start", "demo", "--json"],
            cwd=FLIGHTS,
            env={
                **os.environ,
                "BATCH_ASSETS_ROOT": str(tmp_path / "root"),
                "DAGSTER_HOME": str(tmp_path),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(found.stdout)

    first = demo()
    files = {p: p.stat().st_mtime_ns for p in left_in(tmp_path / "root")}
    second = demo()
    assert [n["success"] for n in first["nights"]] == [True] * 7
    assert sum(n["quarantined_rows"] for n in first["nights"]) == 1
    assert all(n["unchanged"] for n in second["nights"])
    assert {n["version"] for n in first["nights"]} == {
        n["version"] for n in second["nights"]
    }
    assert second["lookup"]["outputs"] == first["lookup"]["outputs"]
    assert {p: p.stat().st_mtime_ns for p in left_in(tmp_path / "root")} == files


def left_in(root: Path) -> list[Path]:
    """Files, but for pages, which say when they were made, and what is at work."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file()
        and path.name != ".lock"
        and not {"reports", ".stages"}.intersection(path.relative_to(root).parts)
    ]
