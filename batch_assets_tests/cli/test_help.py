"""Help, examples, completion and exit codes: what a person meets before any night."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta

import click
import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner

from batch_assets.cli.examples import EXAMPLES
from batch_assets.cli.exits import Exit
from batch_assets.cli.main import main
from batch_assets.quality.gates import GATES
from batch_assets_tests.commands import BIN
from batch_assets_tests.projects import FLIGHTS, attributes, write_project

DAYS = ["2026-01-05", "2026-01-06"]
YESTERDAY = str(date.today() - timedelta(days=1))


def leaves(
    group: click.Group = main, path: str = ""
) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its words."""
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(leaves())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with two pipelines, of which one has scored two days."""
    write_project(tmp_path, "shop", [attributes("churn"), attributes("lapse")])
    for day in DAYS:
        (tmp_path / f"root/lake/churn/validated_features/day={day}").mkdir(parents=True)
    (tmp_path / f"root/snapshots/churn/v={DAYS[0]}-abc").mkdir(parents=True)
    (tmp_path / "root/snapshots/churn/CURRENT").touch()
    (tmp_path / "root/models/flight_delay").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCH_ASSETS_ROOT", "root")
    return tmp_path


def completed(text: str) -> list[str]:
    """What a shell offers after this text."""
    *words, incomplete = text.split(" ")
    shell = get_completion_class("bash")(main, {}, "batch-assets", "_X")
    return [item.value for item in shell.get_completions(words, incomplete)]


def test_every_command_has_examples_and_there_is_none_of_another():
    assert set(EXAMPLES) == set(COMMANDS)
    assert all(1 <= len(examples) <= 2 for examples in EXAMPLES.values())


@pytest.mark.parametrize("path", COMMANDS)
def test_an_example_is_in_the_help_and_is_understood(path, folder):
    for name in ("data/releases/churn", "minilm"):
        (folder / name).mkdir(parents=True)
    for name in ("denied.txt", "messages.parquet", "train.py"):
        (folder / name).touch()
    shown = CliRunner().invoke(main, [*path.split(), "--help"]).output

    for example in EXAMPLES[path]:
        assert f"\n    {example}\n" in shown
        _, *words = shlex.split(example)
        assert words[: len(path.split())] == path.split()
        rest = words[len(path.split()) :]
        context = COMMANDS[path].make_context(path, rest)
        assert context.args == []


def test_the_gate_of_the_example_is_one():
    assert any(gate.name in EXAMPLES["publish"][1] for gate in GATES)


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("look", ["lookup"]),
        ("snapshot ro", ["rollback"]),
        ("run ", ["churn", "lapse"]),
        ("run ch", ["churn"]),
        ("books churn --day ", [*DAYS, YESTERDAY]),
        ("run churn --day 2026-01-0", DAYS),
        ("books lapse --day ", [YESTERDAY]),
        ("snapshot pin churn ", [f"{DAYS[0]}-abc"]),
        ("release list ", ["flight_delay"]),
        ("serve churn la", ["lapse"]),
        ("release compare a b --pipeline l", ["lapse"]),
        ("lookup nobody", []),
    ],
)
def test_names_and_days_are_completed(folder, text, offered):
    assert completed(text) == offered


def test_where_there_is_no_project_or_a_bucket_nothing_is_offered_and_nobody_waits(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCH_ASSETS_ROOT", raising=False)
    assert completed("run ") == []
    monkeypatch.setenv("BATCH_ASSETS_ROOT", "s3://nowhere/at-all")
    assert completed("run ") == []
    (tmp_path / "pyproject.toml").write_text("[tool.dg.", encoding="utf-8")
    assert completed("run ") == []


def test_a_real_bash_completes_and_imports_neither_dagster_nor_arrow(folder):
    script = (
        'eval "$(_BATCH_ASSETS_COMPLETE=bash_source batch-assets)"; '
        "COMP_WORDS=(batch-assets books churn --day 2026-01-05); COMP_CWORD=4; "
        '_batch_assets_completion batch-assets; echo "${COMPREPLY[@]}"'
    )
    path = f"{folder}/bin:{BIN}:{os.environ['PATH']}"
    entry = folder / "bin" / "batch-assets"
    entry.parent.mkdir()
    entry.write_text(
        f"#!{sys.executable}\nimport sys\nfrom batch_assets.cli.main import main\n"
        "try:\n    main()\nfinally:\n"
        "    assert not {'dagster', 'pyarrow', 'pydantic'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    entry.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(FLIGHTS)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("2026-01-05\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell):
    command = get_completion_class(shell)(main, {}, "batch-assets", "_BA_COMPLETE")
    assert f"_BA_COMPLETE={shell}_complete" in command.source()


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["books", "nobody", "--day", DAYS[0]], Exit.NOT_SO, "PipelineError"),
        (["books", "churn", "--day", "today"], Exit.USAGE, "BadParameter"),
        (["books", "churn"], Exit.USAGE, "MissingParameter"),
        (["books", "churn", "--dya", DAYS[0]], Exit.USAGE, "NoSuchOption"),
        (["lokup", "churn"], Exit.USAGE, "NoSuchCommand"),
    ],
)
def test_with_json_an_error_is_an_object_on_stderr(folder, arguments, code, kind):
    result = CliRunner().invoke(main, [*arguments, "--json"])
    plain = CliRunner().invoke(main, arguments)

    error = json.loads(result.stderr.splitlines()[-1])["error"]
    assert (result.stdout, result.exit_code, plain.exit_code) == ("", code, code)
    assert (error["kind"], error["exit"]) == (kind, code)
    assert error["message"] in plain.stderr
    assert "{" not in plain.stderr


def test_an_error_of_the_machine_is_one_too(folder):
    (folder / "file").touch()
    env = {"BATCH_ASSETS_ROOT": str(folder / "file" / "root")}
    arguments = ["release", "add", "churn", ".", "--json"]
    (folder / "release.json").touch()

    result = CliRunner().invoke(main, arguments, env=env)

    assert result.exit_code == Exit.NOT_SO
    assert set(json.loads(result.stderr)["error"]) == {"kind", "message", "exit"}


def test_ctrl_c_ends_any_command_with_130(folder, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "batch_assets.snapshots.store.SnapshotStore.__init__", interrupt
    )
    result = CliRunner().invoke(main, ["lookup", "churn", "7"])

    assert (result.exit_code, result.output) == (Exit.INTERRUPTED, "Interrupted.\n")
