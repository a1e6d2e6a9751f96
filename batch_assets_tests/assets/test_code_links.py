"""Assets link to the code that makes them, where a reader can open it."""

import shutil
import subprocess
from pathlib import Path

import dagster as dg
import pytest

from batch_assets.assets.code_links import checkout_of, code_link, with_code
from batch_assets_tests.projects import attributes, make_project


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit, whose work is on a branch."""
    assert shutil.which("git")
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "defs").mkdir()
    (folder / "defs" / "a.sql").write_text("SELECT 1", encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch", "night/two")
    git(folder, "add", ".")
    who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    git(folder, *who, "commit", "--quiet", "--message", "Begin")
    checkout_of.cache_clear()
    return folder


def git(folder: Path, *command: str) -> str:
    found = subprocess.run(
        ["git", *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def linked(path: Path) -> str:
    link = code_link(path, 7)
    return link.url if isinstance(link, dg.UrlCodeReference) else link.file_path


WEB = "https://github.com/acme/nights/blob/night/two/defs/a.sql#L7"


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("git@github.com:acme/nights.git", WEB),
        ("https://github.com/acme/nights", WEB),
        ("ssh://git@github.com:22/acme/nights.git", WEB),
        ("https://ada:s3cret@github.com/acme/nights.git", WEB),
        (
            "https://gitlab.acme.com/data/team/nights.git",
            "https://gitlab.acme.com/data/team/nights/-/blob/night/two/defs/a.sql#L7",
        ),
    ],
)
def test_a_file_of_a_checkout_is_linked_in_its_forge(checkout, remote, expected):
    git(checkout, "remote", "add", "origin", remote)

    assert linked(checkout / "defs" / "a.sql") == expected


@pytest.mark.parametrize(
    "remote", [None, "/srv/git/nights.git", "git@sourcehut.example:~ada/nights", ""]
)
def test_without_a_forge_the_file_itself_is_linked(checkout, remote):
    if remote is not None:
        git(checkout, "config", "remote.origin.url", remote)

    assert linked(checkout / "defs" / "a.sql") == str(checkout / "defs" / "a.sql")


def test_a_work_tree_and_a_detached_head_are_linked_at_what_is_checked_out(checkout):
    git(checkout, "remote", "add", "origin", "git@github.com:acme/nights.git")
    tree = checkout.parent / "tree"
    git(checkout, "worktree", "add", "--quiet", "--detach", str(tree))

    at = git(tree, "rev-parse", "HEAD")
    assert linked(tree / "defs" / "a.sql") == WEB.replace("night/two", at)


def test_an_installed_package_is_no_part_of_the_checkout_around_it(checkout):
    git(checkout, "remote", "add", "origin", "git@github.com:acme/nights.git")
    path = checkout / ".venv" / "lib" / "site-packages" / "package" / "a.py"

    assert linked(path) == str(path)


@pytest.mark.parametrize("damage", ["config", "HEAD"])
def test_a_damaged_checkout_is_none(checkout, damage):
    git(checkout, "remote", "add", "origin", "git@github.com:acme/nights.git")
    (checkout / ".git" / damage).write_bytes(b"\xff[")

    assert linked(checkout / "defs" / "a.sql").startswith(str(checkout))


def test_a_function_whose_source_is_gone_is_not_linked():
    made: dict = {}
    exec("def build(): pass", made)

    @dg.asset
    def something():
        """Be."""

    (spec,) = with_code(something, made["build"], []).specs
    assert spec.metadata["dagster/code_references"].code_references == []


def test_every_asset_links_its_function_its_yaml_and_its_query(
    tmp_path, root, monkeypatch
):
    source = {"kind": "sql", "query": "features.sql", "tables": {"users": "u.parquet"}}
    project = make_project(
        tmp_path / "p", root, monkeypatch, [attributes(source=source)]
    )
    links = {}
    for spec in project.definitions.resolve_all_asset_specs():
        found = spec.metadata["dagster/code_references"].code_references
        links["/".join(spec.key.path[1:])] = [
            Path(getattr(one, "file_path", None) or one.label).name for one in found
        ]

    assert links["raw_features"] == ["raw_features.py", "features.sql", "defs.yaml"]
    assert links["dead_letters"] == ["predictions.py", "defs.yaml"]
    # Nothing here makes it; the YAML says that it is read.
    assert links["source/users"] == ["defs.yaml"]
    assert all(of[-1] == "defs.yaml" for of in links.values())
