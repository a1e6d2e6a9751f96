"""What CONTRIBUTING says of where things go is where they are."""

import ast
import inspect
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from batch_assets.quality import gates
from batch_assets.quality.gates import GATES
from batch_assets.sinks.gates import gate_of
from batch_assets.snapshots.gates import SNAPSHOT_GATES
from batch_assets.spec import ENGINES, RECEIVERS, SINKS, SOURCES
from batch_assets_tests.projects import FLIGHTS

TEXT = (FLIGHTS / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = FLIGHTS / "batch_assets"
MODULES = sorted(PACKAGE.rglob("*.py"))
KINDS = {
    "source": SOURCES,
    "sink": SINKS,
    "engine": ENGINES,
    "receiver": RECEIVERS,
}
EVERY_KIND = [(what, kind) for what, kinds in KINDS.items() for kind in kinds]
# Its names are handed on for those who write `from batch_assets.spec import ...`.
HANDED_ON = PACKAGE / "spec" / "__init__.py"
# Where the word is said, and is no name of a kind.
OTHER_MEANINGS = {
    # The starter is a query; `snapshot sql`.
    ("source", "sql"): {"component.py", "cli"},
    # A kind of sink, and one of source.
    ("source", "postgres"): {"sinks", "spec"},
    ("sink", "postgres"): {"lake"},
    # A host that is this machine, and what lies on it.
    ("engine", "local"): {"sinks", "scoring", "storage"},
    ("receiver", "log"): {"launch", "scoring"},  # A file, and an axis of a plot.
}
# A form of what is written, and a language: told by the name of their type alone.
EVERYDAY_WORDS = {("source", "json"), ("source", "python")}


def files_of(what: str, kind: str) -> list[Path]:
    """The files that CONTRIBUTING lists for a new source, gate, sink, engine or receiver."""
    section = TEXT.partition(f"\n### A new {what}\n")[2].partition("\n#")[0]
    listed = re.findall(r"^\d\. `([^`]+)`", section, re.MULTILINE)
    return [FLIGHTS / re.sub("<[a-z]+>", kind, path) for path in listed]


def test_floors_are_those_that_the_build_enforces():
    pyproject = tomllib.loads((FLIGHTS / "pyproject.toml").read_text("utf-8"))
    layers = pyproject["tool"]["importlinter"]["contracts"][0]["layers"]
    house = TEXT.partition("otherwise):\n\n")[2].partition("\n\n")[0]

    floors = [re.split(r"\s{2,}", line.strip())[0] for line in house.splitlines()]

    assert floors == layers


@pytest.mark.parametrize(("what", "kind"), EVERY_KIND)
def test_a_kind_is_in_the_two_files_of_its_list_and_tested_in_the_third(what, kind):
    files = files_of(what, kind)

    assert len(files) == 3
    assert [path for path in files if not path.exists()] == []
    named = {path for path in MODULES if names(path, what, kind)}
    assert named - {HANDED_ON} <= set(files)


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_a_gate_is_its_judge_and_one_row_of_the_table(gate):
    family = Path(inspect.getfile(gate.judge))
    judge, table, test = files_of("gate", family.stem)

    assert (judge, table) == (family, Path(inspect.getfile(gates)))
    assert f'"{gate.name}"' in test.read_text("utf-8")
    assert {path for path in MODULES if repr(gate.name) in words(path)} == {table}


def names(path: Path, what: str, kind: str) -> bool:
    """Whether a file names a kind: by the word, or by its settings' type."""
    said = {repr(kind), KINDS[what][kind].__name__}
    elsewhere = OTHER_MEANINGS.get((what, kind), ())
    if (what, kind) in EVERYDAY_WORDS or (
        path.relative_to(PACKAGE).parts[0] in elsewhere
    ):
        said.remove(repr(kind))
    return not said.isdisjoint(words(path))


@cache
def words(path: Path) -> set[str]:
    """What the code of a file says: its strings, quoted, and the names that it uses."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Constant(value=str(text)):
                found.add(repr(text))
            case ast.Name(id=name) | ast.ClassDef(name=name) | ast.alias(name=name):
                found.add(name)
    return found


def test_the_table_of_gates_in_the_guide_is_that_of_the_code():
    guide = (FLIGHTS / "docs" / "pipeline.md").read_text("utf-8")
    table = guide.partition("| gate | of |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(.+)` \| `(.+)` \| (.+) \| (.+) \|$", table, re.MULTILINE)

    assert rows == [
        (gate.name, gate.asset, gate.effect, gate.description)
        for gate in (*GATES, *SNAPSHOT_GATES, gate_of("<sink>"))
    ]


def test_the_glossary_is_a_line_for_each_word():
    table = TEXT.partition("## Words")[2].partition("\n## ")[0]
    words = [
        row.partition("|")[0].strip() for row in re.findall(r"^\| (.*)$", table, re.M)
    ]

    assert len(words) == len(set(words)) > 20
