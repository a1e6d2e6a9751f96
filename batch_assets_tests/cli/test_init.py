"""A project of one's own: from an empty folder to a key that is looked up."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from batch_assets.launch.new_project import HARMLESS, write_project
from batch_assets_tests.commands import BIN, invoke
from batch_assets_tests.projects import FLIGHTS

FILES = {
    ".gitignore",
    "README.md",
    "dagster.yaml",
    "pyproject.toml",
    "shop/__init__.py",
    "shop/definitions.py",
    "shop/defs/__init__.py",
    "shop/defs/churn/defs.yaml",
    "shop/defs/churn/features.sql",
    "shop/generate.py",
    "shop/train.py",
    "workspace.yaml",
}


def files_in(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """A folder to stand in, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package as its wheel has it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=FLIGHTS, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_a_new_project_is_trained_run_looked_up_and_checked(installed, tmp_path):
    shop = tmp_path / "shop"
    dropped = {"DAGSTER_HOME", "BATCH_ASSETS_ROOT"}
    env = {name: value for name, value in os.environ.items() if name not in dropped}

    def run(*command: object, cwd: Path = shop) -> str:
        done = subprocess.run(
            [*map(str, command)],
            cwd=cwd,
            env={**env, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command = [sys.executable, "-m", "batch_assets.cli.start"]
    said = run(*command, "init", "shop", cwd=tmp_path)
    assert files_in(shop) == FILES
    where = run(
        sys.executable, "-c", "import batch_assets; print(batch_assets.__file__)"
    )
    assert where.startswith(str(installed))

    steps = [line.split() for line in said.partition("next")[2].splitlines()[2:]]
    assert steps[0] == ["python", "-m", "shop.train"]
    run(sys.executable, *steps[0][1:])
    report = json.loads(run(*command, *steps[1][1:], "--json"))
    assert (report["success"], report["raw_rows"]) == (True, 5_000)
    assert report["warnings"] == []
    assert 0 < json.loads(run(*command, *steps[2][1:], "--json"))["outputs"]["risk"] < 1
    assert "loaded successfully" in run(BIN / "dg", "check", "defs")
    ignored = subprocess.run(
        "git init -q . && git add . && git ls-files",
        cwd=shop,
        shell=True,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert set(ignored.stdout.split()) == FILES


def test_what_is_written_names_the_project_and_nothing_else_to_fill_in(empty):
    said = json.loads(invoke("init", "my-shop", "--json"))

    folder = empty / "my-shop"
    assert said["package"] == "my_shop"
    assert {name.replace("my_shop", "shop") for name in said["files"]} == FILES
    for name in said["files"]:
        assert "@PROJECT@" not in (folder / name).read_text(encoding="utf-8")
    (workspace,) = yaml.safe_load((folder / "workspace.yaml").read_text())["load_from"]
    assert workspace["python_module"]["module_name"] == "my_shop.definitions"


def test_its_instance_is_set_up_as_that_of_this_project(empty):
    write_project(empty, "shop")

    own, ours = (
        yaml.safe_load((folder / "dagster.yaml").read_text(encoding="utf-8"))
        for folder in (empty, FLIGHTS)
    )
    assert own == ours


def test_nothing_is_overwritten(empty):
    invoke("init", ".", "--name", "shop")
    before = {name: (empty / name).read_text(encoding="utf-8") for name in FILES}
    (empty / "shop" / "train.py").write_text("mine", encoding="utf-8")

    said = invoke("init", ".", "--name", "shop", fails=True)

    assert "is not empty, and nothing is overwritten" in said
    after = {name: (empty / name).read_text(encoding="utf-8") for name in FILES}
    assert after == before | {"shop/train.py": "mine"}


def test_a_folder_with_what_every_folder_may_have_is_as_good_as_empty(empty):
    for name in HARMLESS:
        (empty / name).mkdir()

    invoke("init", "--name", "shop")

    assert files_in(empty) == FILES


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["2026"], "'2026' is no name for a package"),
        (["class"], "'class' is no name for a package"),
        (["torch"], "a package 'torch' is here already"),
        (["random"], "a package 'random' is here already"),
        (["shop", "--name", "Shop"], "'Shop' is no name for a package"),
        (["file"], "is a file, expected a folder"),
        (["full"], "it holds a.txt. Name an empty folder"),
    ],
)
def test_a_mistake_writes_nothing(empty, arguments, said):
    (empty / "file").touch()
    (empty / "full").mkdir()
    (empty / "full" / "a.txt").touch()

    assert said in invoke("init", *arguments, fails=True)
    assert files_in(empty) == {"file", "full/a.txt"}
