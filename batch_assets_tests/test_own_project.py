"""The example project is what its page says, and runs from the wheel in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from batch_assets.lake.tables import Lake
from batch_assets.snapshots.version import Version
from batch_assets_tests.commands import BIN
from batch_assets_tests.projects import FLIGHTS

EXAMPLE = FLIGHTS / "examples" / "own_project"
TEXT = (FLIGHTS / "docs" / "own-project.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


def test_what_the_page_shows_of_the_example_is_in_it():
    files = [
        path.read_text(encoding="utf-8")
        for path in EXAMPLE.rglob("*")
        if path.suffix in {".py", ".yaml"}
    ]
    for block in (*blocks("python"), *blocks("yaml")):
        assert any(block in text for text in files), block


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_example_runs_from_the_wheel_in_an_empty_folder(tmp_path):
    wheel = _wheel(tmp_path / "dist")
    site, folder = tmp_path / "site", tmp_path / "own_project"
    zipfile.ZipFile(wheel).extractall(site)
    # What a person who tried it has left is none of it.
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(*IGNORED))
    script = "\n".join(blocks("bash"))
    pip, _, typed = script.partition("\n")
    assert pip.startswith("pip install batch-assets[ui]")  # It is there: `site`.
    where = "import batch_assets; print(batch_assets.__file__)"
    typed = typed.replace("PYTHONPATH=$PWD", f"PYTHONPATH=$PWD:{site}")
    done = subprocess.run(
        ["bash", "-euc", f'{typed}\npython -c "{where}"'],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-5_000:]
    assert done.stdout.strip().splitlines()[-1].startswith(str(site))

    lake = Lake(folder / "data", "churn")
    assert lake.predictions.rows_by_day() == {"2026-02-01": 2_000, "2026-02-02": 2_000}
    version = Version.current(folder / "data" / "snapshots" / "churn")
    assert version.manifest.day == "2026-02-02"
    assert (folder / "storage" / "letters" / "2026-02-01").is_file()
    assert "daily_features of 2026-02-02 was never materialised" in said
    assert "Loading partition" not in said


IGNORED = (EXAMPLE / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    subprocess.run([*command, str(folder)], cwd=FLIGHTS, check=True, timeout=200)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _environment() -> dict[str, str]:
    """Of a shell in which nothing of this project is set."""
    kept = {
        k: v for k, v in os.environ.items() if "DAGSTER" not in k and "ROOT" not in k
    }
    kept.pop("PYTHONPATH", None)
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}
