"""The command line in a process of its own, as a person starts it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import click
import jsonschema
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets.cli.schemas import schema_of
from batch_assets.lake.tables import Lake
from batch_assets_tests.models_that_fail import write_mendable
from batch_assets_tests.projects import FLIGHTS, attributes, write_project
from batch_assets_tests.toys import make_rows, write_source
from batch_assets_tests.waiting import until

BIN = Path(sys.executable).parent
HOME_ROWS = 2_000


def must_be_as_documented(arguments: Sequence[str], out: str) -> None:
    """What a command printed with --json has the fields that the docs say, and no other."""
    if "--json" not in arguments or not out:
        return
    words, command = [], main
    for word in arguments:
        if isinstance(command, click.Group):
            words.append(word)
            command = command.commands[word]
    for name, option in (("run", "--from"), ("plan", "--check")):
        if words == [name] and option in arguments:
            words.append(option)
    jsonschema.validate(json.loads(out), _schema(" ".join(words)))


@cache
def _schema(path: str) -> Any:
    return _strict(schema_of(path))


def _strict(schema: Any) -> Any:
    """The same schema without room for a field that it does not have."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(value) for name, value in schema.items()}
    if "properties" in schema and "type" in schema:
        strict.setdefault("additionalProperties", False)
    if schema.get("type") == "number":  # What is no number is written as a word.
        return {"anyOf": [strict, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
    return strict


def invoke(*arguments: str, fails: bool = False) -> str:
    """Run a command in this process; what it printed."""
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code != 0) == fails, result.output
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "Traceback" not in result.output
    must_be_as_documented(arguments, result.stdout)
    return result.output


@contextmanager
def started(
    home: Path, *arguments: str, cwd: Path | None = None, **env: str
) -> Iterator[subprocess.Popen[str]]:
    """The installed command on the project `home/p`, with a root of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "batch_assets.cli.start", *arguments],
        cwd=cwd or home / "p",
        env={
            **{k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"},
            "BATCH_ASSETS_ROOT": str(home / "root"),
            "PYTHONPATH": f"{home / 'p'}:{FLIGHTS}",
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def batch_assets(
    home: Path, *arguments: str, code: int = 0, **changes: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; `changes` go to `started`."""
    with started(home, *arguments, **changes) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    must_be_as_documented(arguments, out)
    return subprocess.CompletedProcess(arguments, code, out, err)


def finish(home: Path, *arguments: str, code: int = 0, **changes: Any) -> str:
    """What the command printed at its end: its output, or its errors."""
    done = batch_assets(home, *arguments, code=code, **changes)
    return done.stdout if code == 0 else done.stderr


def make_home(folder: Path) -> Path:
    """A project with a release whose module can be made slow, or broken."""
    release = write_mendable(folder / "release")
    pipeline = attributes(
        grace_seconds=2, gates={"max_dead_letter_share": 0.1, "min_coverage": 0.9}
    )
    write_project(folder / "p", "toys_project", [pipeline])
    write_source(folder / "p", make_rows(HOME_ROWS))
    finish(folder, "release", "add", "toy", str(release.folder))
    finish(folder, "release", "approve", "toy", release.digest, "--why", "ok")
    return folder


def chunks_on_disk(home: Path, day: str = "*") -> int:
    table = Lake(home / "root", "toy").predictions.path
    return len(list(table.glob(f"day={day}/*/*.parquet")))


def wait_for_chunks(home: Path, process: subprocess.Popen[str], number: int) -> None:
    def have_come() -> bool:
        assert process.poll() is None, "it ended before it was interrupted"
        return chunks_on_disk(home) >= number

    until(have_come, seconds=180)
