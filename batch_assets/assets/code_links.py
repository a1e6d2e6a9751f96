"""Links from the catalog to the code: in the forge of the checkout, or as a local file.

A checkout is known by what lies in its `.git`; no command is run. What lies outside of it,
such as an installed package, is linked as the file that it is.
"""

import configparser
import inspect
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg

# Which forges Dagster has a picture of, and how an address in them leads to a file.
FORGES = {"github": "blob", "gitlab": "-/blob"}
# `git@host:owner/name.git`, `ssh://git@host/owner/name`, `https://token@host/owner/name`.
REMOTE = re.compile(
    r"^(?:(?:https?|ssh|git)://)?(?:[^@/]+@)?(?P<host>[\w.-]+)(?::\d+)?[:/]"
    r"(?P<name>[^:]+?)(?:\.git)?/?$"
)
# Where packages are installed, which may be inside of a checkout, and belong to none.
INSTALLED = "site-packages"

CodeReference = dg.LocalFileCodeReference | dg.UrlCodeReference


@dataclass(frozen=True)
class Checkout:
    """A checkout of a repository that can be looked at in a browser.

    Attributes:
        folder: of its files.
        web: the address of its files at what is checked out, without a slash at the end.
    """

    folder: Path
    web: str


def code_link(path: Path, line: int | None = None) -> CodeReference:
    """Return the link to a line of a file."""
    path = path.resolve()
    checkout = None if INSTALLED in path.parts else checkout_of(path.parent)
    with warnings.catch_warnings():
        # The classes are in beta.
        warnings.filterwarnings("ignore", category=dg.BetaWarning)
        if checkout is None:
            return dg.LocalFileCodeReference(file_path=str(path), line_number=line)
        at = f"#L{line}" if line else ""
        url = f"{checkout.web}/{path.relative_to(checkout.folder).as_posix()}{at}"
        return dg.UrlCodeReference(url=url, label=path.name)


def with_code(
    asset: dg.AssetsDefinition, build: Callable[..., Any], files: Iterable[Path]
) -> dg.AssetsDefinition:
    """Return the asset with links to the function that builds it, and to files beside."""
    links = [*_function(build), *map(code_link, files)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=dg.BetaWarning)
        references = dg.CodeReferencesMetadataValue(code_references=links)
    return asset.map_asset_specs(
        lambda spec: spec.merge_attributes(
            metadata={"dagster/code_references": references}
        )
    )


def _function(build: Callable[..., Any]) -> list[CodeReference]:
    """The link to a function; none where its source is not there, as in an archive."""
    try:
        path, (_, line) = inspect.getsourcefile(build), inspect.getsourcelines(build)
    except OSError:
        return []
    return [code_link(Path(path), line)] if path else []


@lru_cache
def checkout_of(folder: Path) -> Checkout | None:
    """Return the checkout that a folder is in; None if there is none, or no forge of it."""
    for root in (folder, *folder.parents):
        if (root / ".git").exists():
            break
    else:
        return None
    try:
        git, shared = _folders(root / ".git")
        # A remote may be written with the same words twice, and keys without a value.
        config = configparser.ConfigParser(
            strict=False, allow_no_value=True, interpolation=None
        )
        config.read(shared / "config", encoding="utf-8")
        remote = config.get('remote "origin"', "url")
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError, configparser.Error):
        return None
    found = REMOTE.match(remote or "")
    forge = found and next((name for name in FORGES if name in found["host"]), None)
    if not found or not forge:
        return None
    at = head.removeprefix("ref: refs/heads/")
    return Checkout(
        root, f"https://{found['host']}/{found['name']}/{FORGES[forge]}/{at}"
    )


def _folders(git: Path) -> tuple[Path, Path]:
    """The folder of a checkout's own state, and that which all its work trees share."""
    if git.is_dir():
        return git, git
    own = git.parent / git.read_text(encoding="utf-8").strip().removeprefix("gitdir: ")
    common = own / "commondir"
    if not common.is_file():
        return own, own
    return own, own / common.read_text(encoding="utf-8").strip()
