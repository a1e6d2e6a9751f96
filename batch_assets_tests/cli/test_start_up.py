"""What a command imports before it answers: a person at three in the morning waits for it.

How long it takes depends on the machine; which modules are imported does not.
"""

import gc
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from batch_assets.cli.collector import uncollected
from batch_assets.cli.console import open_runner
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
# Of the others, those that are seen to cost something.
dear = {"tomllib", "pyarrow.compute", "pyarrow.dataset"}
print(json.dumps([*sorted(installed), *sorted(dear & set(sys.modules))]), file=sys.stderr)
"""

# Begins as the installed command does, with a thread, a handler and a cycle of its own.
START = """
import atexit, sys, threading
import batch_assets.cli.main as home
from batch_assets.cli.start import start

class Cycle:
    def __init__(self): self.itself = self
    def __del__(self): print("taken apart")

def late():
    threading.main_thread().join()
    print("a thread")

def main(wrapped=home.main):
    atexit.register(print, "a handler")
    threading.Thread(target=late).start()
    wrapped()

cycle, home.main = Cycle(), main
start()
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


def test_a_lookup_looks_for_no_plugins(folder, tmp_path):
    (tmp_path / "loud-1.dist-info").mkdir()
    (tmp_path / "loud-1.dist-info" / "entry_points.txt").write_text(
        "[pydantic]\nloud = loud:plugin\n", encoding="utf-8"
    )
    (tmp_path / "loud.py").write_text("raise SystemExit('loaded')", encoding="utf-8")
    code = "from batch_assets.cli.main import main; main(['lookup', 'churn', '7'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{FLIGHTS}:{tmp_path}",
            "BATCH_ASSETS_ROOT": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_a_lookup_is_over_before_garbage_is_looked_for(folder):
    code = (
        "import gc, sys; from batch_assets.cli.main import main; gc.disable()\n"
        "gc.callbacks.append(lambda *what: print(*what, file=sys.stderr)); gc.enable()\n"
        "try: main(['lookup', 'churn', '7'], standalone_mode=False)\n"
        "finally: gc.disable(); gc.callbacks.clear()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(FLIGHTS), "BATCH_ASSETS_ROOT": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    # A few young ones while click finds the command; without the pause it is hundreds.
    assert len(done.stderr.splitlines()) < 40
    assert "'generation': 2" not in done.stderr


def test_a_runner_is_opened_before_garbage_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(FLIGHTS)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with open_runner("flights"):  # Whatever is to be imported is imported here.
        pass
    looks: list[int] = []

    def looked(phase: str, info: dict[str, int]) -> None:
        looks.append(info["generation"])

    gc.callbacks.append(looked)
    try:
        with open_runner("flights"):
            during = [*looks]
            assert gc.isenabled()
    finally:
        gc.callbacks.remove(looked)

    assert 2 not in during
    assert len(during) < 40


def test_the_collector_is_on_again_whatever_happens():
    seen: list[bool] = []

    def fails() -> None:
        with uncollected():
            seen.append(gc.isenabled())
            raise ValueError("what a module says")

    with pytest.raises(ValueError, match="what a module says"):
        fails()
    assert (seen, gc.isenabled()) == ([False], True)

    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def begun(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(FLIGHTS), "BATCH_ASSETS_ROOT": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], 0), (["lookup", "churn", "777"], 1), (["lookup"], 2)],
)
def test_a_command_ends_after_its_threads_and_handlers_but_is_not_taken_apart(
    folder, arguments, code
):
    done = begun(folder, *arguments)

    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("a thread\na handler\n")


def test_what_is_no_end_of_a_command_ends_as_python_ends_it(folder):
    code = START.replace("wrapped()", "raise RuntimeError('a mistake of ours')")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(FLIGHTS)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "RuntimeError: a mistake of ours" in done.stderr
    assert done.stdout.endswith("a thread\na handler\ntaken apart\n")


def test_what_could_not_be_written_is_told(folder):
    code = START.replace("wrapped()", "sys.exit(0)")
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(FLIGHTS), "PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 120
    assert "No space left on device" in done.stderr


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
