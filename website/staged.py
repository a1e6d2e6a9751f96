"""Gather the pages that the site is built of: `docs`, and four pages that lie elsewhere.

Their links are written for readers of the repository. In the site a link to one of the
four leads to its page, and one to a file of the repository becomes its name.
"""

import posixpath
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Where pages of the repository are in the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)"
)


def stage(folder: Path) -> None:
    """Write every page of the site, and its pictures, into a folder that is made anew.

    Args:
        folder: what Zensical is told to build.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    shutil.copy(ROOT / "benchmarks" / "results.png", folder / "results.png")
    for page in sorted(folder.rglob("*.md")):
        of = f"docs/{page.relative_to(folder).as_posix()}"
        page.write_text(
            for_site(page.read_text(encoding="utf-8"), of), encoding="utf-8"
        )
    for source, page_name in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        (folder / page_name).write_text(for_site(text, source), encoding="utf-8")


def for_site(text: str, source: str) -> str:
    """Return a page whose links lead to pages of the site.

    Args:
        text: of the page.
        source: where it lies in the repository, which its links are relative to.
    """
    here = posixpath.dirname(_in_site(source) or "")

    def link(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = _in_site(path)
        if page is None:
            return f"`{path}`" if match["text"].startswith("`") else match["text"]
        there = posixpath.relpath(page, here or ".")
        return f"{match['image']}[{match['text']}]({there}{anchor})"

    return LINK.sub(link, text)


def _in_site(path: str) -> str | None:
    """Return where a file of the repository is in the site, if it is there."""
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    if path == "benchmarks/results.png":
        return "results.png"
    return path.removeprefix("docs/") if path.startswith("docs/") else None
