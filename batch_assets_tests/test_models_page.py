"""Pages about models are one program each: their blocks run, in order."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from batch_assets import Snapshot
from batch_assets.cli.import_release import release_import
from batch_assets.models.release import open_release
from batch_assets_tests.projects import DEFINITIONS

REPOSITORY = Path(__file__).parents[1]


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


def run_page(name: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Run a page's blocks in a project; the names that it leaves, and what was printed last."""
    make_project(folder)
    text = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    assert {kind for kind, _ in blocks} == {"python", "yaml", "console"}
    # As a script's own module: classes of a page are looked up by it.
    page = types.ModuleType("page")
    sys.modules["page"] = page
    names, said = page.__dict__, ""
    for kind, block in blocks:
        if kind == "yaml" or block.startswith("# train.py"):
            path = folder / block.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
        elif kind == "python":
            exec(compile(block, f"docs/{name}", "exec"), names)
        else:
            for line in block.splitlines():
                said = run(line.replace("DIGEST", _digest(names)), folder)
    return names, said


@pytest.mark.slow
def test_each_block_about_histories_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names, said = run_page("models.md", tmp_path)
    ranking = names["answer"].outputs["watch_next"]
    assert len(ranking) == 10
    # What was looked up last is printed, a line for each place.
    assert [line.split()[-2] for line in said.splitlines()[:10]] == [
        film for film, _ in ranking
    ]
    # What the side table lists is shown to nobody, or nobody in Germany.
    with Snapshot(tmp_path / "data" / "snapshots" / "watch_next") as snapshot:
        shown = [
            {film for film, _ in snapshot.get(user).outputs["watch_next"]}
            for user in names["users"]
        ]
    day = pl.read_parquet(tmp_path / "histories-2026-01-05.parquet")
    in_germany = (day["country"] == "DE").to_list()
    blocked = set(names["FILMS"][100:])
    assert not any("film-000" in films for films in shown)
    assert not any(
        films & blocked for films, there in zip(shown, in_germany, strict=True) if there
    )
    assert any(films & blocked for films in shown)


@pytest.mark.slow
def test_each_block_about_a_release_in_one_call_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names, said = run_page("release.md", tmp_path)
    with torch.inference_mode():
        heads = names["model"].eval()(names["features"][41:42])
    shown = dict(line.split()[:2] for line in said.splitlines()[:2])
    assert open_release(tmp_path / "data" / "releases" / "base_rate")
    assert float(shown["leaves"]) == pytest.approx(heads.leaves.item(), rel=1e-4)
    assert float(shown["buys"]) == pytest.approx(heads.buys.item(), rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_block_about_texts_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names, said = run_page("text.md", tmp_path)
    assert names["topics"] == ["food", "money", "sport"]
    imported = open_release(tmp_path / "data" / "releases" / "meanings")
    assert imported.manifest.model.versions.keys() >= {"transformers", "tokenizers"}
    assert re.search(r"topic\s+sport", said)


@pytest.mark.parametrize(
    "name", ["models.md", "release.md", "text.md", "frameworks.md"]
)
def test_what_is_not_run_is_a_command_that_there_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs MLflow's server, which `training/test_mlflow.py` starts for the same command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training.parquet").touch()
    text = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    shown = re.findall(r"^    (?!pip install )(\S.*)$", text, re.M)
    assert len(shown) == (name == "release.md")
    for line in shown:
        assert line.startswith("batch-assets release import mlflow:")
        words = shlex.split(line)[3:]
        release_import.make_context(line, words)


def _digest(names: dict[str, Any]) -> str:
    return str(names["release"].digest)


def run(line: str, folder: Path) -> str:
    command = f"{sys.executable} -m batch_assets.cli.start {line.removeprefix('$ batch-assets ')}"
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
