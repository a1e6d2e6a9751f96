"""The page about models is one program: each of its blocks runs, in order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch_assets_tests.projects import DEFINITIONS

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)


def make_project(folder: Path) -> None:
    package = folder / "shop"
    (package / "defs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "0"\n[tool.dg]\ndirectory_type = "project"\n'
        '[tool.dg.project]\nroot_module = "shop"\ncode_location_name = "shop"\n'
    )
    shutil.copy(REPOSITORY / "dagster.yaml", folder)


@pytest.mark.slow
def test_each_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    said = ""
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "docs/models.md", "exec"), names)
        elif kind == "yaml":
            path = tmp_path / block.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
        else:
            assert kind == "console"
            for line in block.splitlines():
                said = run(line.replace("DIGEST", _digest(names)), tmp_path)
    assert {kind for kind, _ in BLOCKS} == {"python", "yaml", "console"}
    ranking = names["answer"].outputs["watch_next"]
    assert len(ranking) == 10
    # What was looked up last is printed, a line for each place.
    assert [line.split()[-2] for line in said.splitlines()[:10]] == [
        film for film, _ in ranking
    ]


def _digest(names: dict[str, Any]) -> str:
    return str(names["release"].digest)


def run(line: str, folder: Path) -> str:
    command = f"{sys.executable} -m batch_assets.cli.main {line.removeprefix('$ batch-assets ')}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=os.environ
        | {
            "DAGSTER_HOME": str(folder),
            "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
