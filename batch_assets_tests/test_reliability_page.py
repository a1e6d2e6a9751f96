"""The page of reliability names, promise by promise, tests that are there and what they are of."""

import ast
import re
import subprocess
import sys
from collections import defaultdict

import pytest

from batch_assets_tests.projects import FLIGHTS

TESTS = FLIGHTS / "batch_assets_tests"
PAGE = (FLIGHTS / "docs" / "reliability.md").read_text(encoding="utf-8")
README = (FLIGHTS / "README.md").read_text(encoding="utf-8")
(SECTION,) = re.findall(r"^## Promise by promise\n(.*?)^## ", PAGE, re.M | re.S)
ROWS = re.findall(
    r"^\| (\d+) \w+ \| `([\w/]+\.py)::(\w+)`(?: \(`make [a-z-]+`\))? \| ([\w, ]+) \|$",
    SECTION,
    re.M,
)
# How tests name a kind of pipeline in their ids.
KINDS = {"numbers": {"numbers", "features"}, "histories": {"histories", "rankings"}}


def test_each_row_is_of_a_promise_and_each_promise_has_rows_of_both_kinds() -> None:
    assert len(ROWS) == len(re.findall(r"^\| \d", SECTION, re.M)) > 30
    promises = re.search(r"^## What is promised\n(.*?)^`make", README, re.M | re.S)
    assert promises
    numbers = re.findall(r"^(\d+)\. \*\*", promises[1], re.M)
    assert len(numbers) == 10
    for kind in ("numbers", "histories"):
        assert {row[0] for row in ROWS if kind in row[3].split(", ")} == set(numbers)


@pytest.mark.parametrize("file", sorted({row[1] for row in ROWS}))
def test_each_test_that_is_named_is_there(file: str) -> None:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for _, of, name, _ in ROWS if of == file} <= there


@pytest.mark.slow
def test_each_is_of_the_pipelines_that_it_is_said_to_be_of() -> None:
    """As the ids of its runs tell; one that is run once can't be of both."""
    files = [str(TESTS / file) for file in sorted({row[1] for row in ROWS})]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    collected = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=FLIGHTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert collected.returncode == 0, collected.stdout + collected.stderr
    words: dict[tuple[str, str], set[str]] = defaultdict(set)
    found = re.findall(
        r"^batch_assets_tests/([\w/]+\.py)::(\w+)(.*)$", collected.stdout, re.M
    )
    for file, name, parameters in found:
        words[file, name] |= set(parameters.strip("[]").split("-"))
    for _, file, name, said in ROWS:
        assert (file, name) in words
        kinds = said.split(", ")
        told = [kind for kind, ids in KINDS.items() if words[file, name] & ids]
        assert told == kinds or (not told and len(kinds) == 1), (file, name, told)
