"""Each target of the Makefile asks for what it needs before it makes anything."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from batch_assets_tests.projects import FLIGHTS

# What a target calls before, or to find out that something is missing.
THERE = (
    "sh",
    "bash",
    "echo",
    "touch",
    "rm",
    "cp",
    "mkdir",
    "ls",
    "grep",
    "sed",
    "expand",
)
TOOLS = {
    "test-slow": {
        "g++": "g++",
        "redis-server": "redis-server",
        "initdb": "postgresql",
    },
    "test-fast": {
        "g++": "g++",
        "redis-server": "redis-server",
        "initdb": "postgresql",
    },
    "test-ui": {"chromium": "chromium"},
    "screenshots": {"chromium": "chromium"},
    "test-engines": {"java": "openjdk-17-jre-headless"},
    "test-crash": {"java": "openjdk-17-jre-headless"},
    "bench": {"java": "openjdk-17-jre-headless", "g++": "g++"},
    "bench-online": {"wrk": "wrk"},
    "soak": {"redis-server": "redis-server"},
    "package-servers": {"java": "openjdk-17-jre-headless", "initdb": "postgresql"},
    "bench-serving": {"redis-server": "redis-server"},
}


def make(
    folder: Path, target: str, tools: set[str]
) -> subprocess.CompletedProcess[str]:
    """Run a target of a fresh clone with nothing but these tools; Python tells on use."""
    binaries = folder / "bin"
    binaries.mkdir()
    for name in THERE:
        (binaries / name).symlink_to(shutil.which(name) or name)
    for name in tools:
        (binaries / name).symlink_to("/bin/true")
    python = binaries / "python3"
    python.write_text("#!/bin/sh\ntouch used\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(FLIGHTS / name, folder)
    # Where Debian keeps the servers' own commands, that of this machine is not meant.
    text = (folder / "Makefile").read_text(encoding="utf-8")
    here = text.replace("/usr/lib/postgresql", str(folder / "no-postgresql"))
    (folder / "Makefile").write_text(here, encoding="utf-8")
    (folder / "benchmarks").mkdir()
    shutil.copy(FLIGHTS / "benchmarks" / "daft.txt", folder / "benchmarks")
    return subprocess.run(
        [shutil.which("make") or "make", target],
        cwd=folder,
        env={"PATH": str(binaries), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("target", "lacking"),
    [(target, tool) for target, tools in TOOLS.items() for tool in tools],
)
def test_what_is_missing_is_said_before_anything_is_made(tmp_path, target, lacking):
    found = make(tmp_path, target, set(TOOLS[target]) - {lacking})

    assert found.returncode == 2
    package = TOOLS[target][lacking]
    said = (
        f"make {target} needs {lacking}, which is not here: apt-get install {package}"
    )
    assert said in found.stdout
    assert not (tmp_path / "used").exists(), "an environment was begun before"


@pytest.mark.parametrize("target", TOOLS)
def test_with_all_that_it_needs_a_target_begins(tmp_path, target):
    make(tmp_path, target, set(TOOLS[target]))

    assert (tmp_path / "used").exists()


def test_every_target_that_needs_a_tool_is_tried_here():
    text = (FLIGHTS / "Makefile").read_text(encoding="utf-8")
    asks = [line for line in text.splitlines() if "need-" in line and "##" in line]
    assert {line.partition(":")[0] for line in asks} == set(TOOLS)
    for line in asks:
        named = {word[5:] for word in line.split() if word.startswith("need-")}
        assert named == set(TOOLS[line.partition(":")[0]])


def test_every_test_of_the_ui_lies_where_make_looks_for_it():
    """The others are not collected for it: that takes a quarter of a minute."""
    tests = FLIGHTS / "batch_assets_tests"
    marked = re.compile(r"^(@|pytestmark\b.*)pytest\.mark\.ui\b", re.MULTILINE)
    found = {
        path.relative_to(tests).parts[0]
        for path in tests.rglob("*.py")
        if marked.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"ui"}
