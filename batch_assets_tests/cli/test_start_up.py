"""What a command imports before it answers: a person at three in the morning waits for it.

How long it takes depends on the machine; which modules are imported does not.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from batch_assets.cli.main import HOMES, main
from batch_assets.spec import ENGINES
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.served import serve

# Runs a command, then says which packages are imported that Python does not bring.
ASK = """
import contextlib, json, sys
before = set(sys.modules)
from batch_assets.cli.main import main
with contextlib.suppress(SystemExit):
    main(sys.argv[1:])
installed = {
    name.partition(".")[0]
    for name, module in sys.modules.items()
    if name not in before and "site-packages" in (getattr(module, "__file__", None) or "")
}
print(json.dumps([*sorted(installed), *(n for n in sys.modules if "compute" in n)]),
      file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what a night of string keys has left, and nothing else."""
    folder = tmp_path_factory.mktemp("served")
    serve(folder / "data" / "snapshots" / "churn", 1, np.arange(1, 101))
    return folder


def imported_by(folder, *arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the packages that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(FLIGHTS), "BATCH_ASSETS_ROOT": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["release", "approve", "--help"]]
)
def test_help_needs_click_alone(folder, arguments):
    text, packages = imported_by(folder, *arguments)

    assert text.startswith("Usage:")
    assert packages == {"click"}


def test_the_help_of_run_names_every_engine(folder):
    text, _ = imported_by(folder, "run", "--help")

    assert all(re.search(rf"\b{kind}\b", text) for kind in ENGINES)


def test_a_lookup_needs_only_what_reads_a_snapshot(folder):
    text, packages = imported_by(folder, "lookup", "churn", "7", "--json")

    assert json.loads(text)["outputs"]["number"] == 1
    arrays, models = {"numpy", "pyarrow", "cloudpickle"}, {"pydantic", "pydantic_core"}
    models |= {"annotated_types", "typing_extensions", "typing_inspection"}
    assert packages <= {"click", "obstore"} | arrays | models


def test_definitions_are_loaded_without_what_draws(folder):
    code = "import sys, batch_assets.component; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FLIGHTS, capture_output=True, check=True
    )

    assert done.stdout.decode().strip() == "False"


def test_a_command_is_imported_only_when_it_is_asked_for(folder):
    code = "import sys, batch_assets.cli.main; print([*sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FLIGHTS, capture_output=True, check=True
    )

    for home in HOMES.values():
        module = home.partition(":")[0]
        assert f"batch_assets.cli.{module}'" not in done.stdout.decode()


def test_every_command_is_where_the_table_says():
    assert [main.commands[name].name for name in HOMES] == [*HOMES]
