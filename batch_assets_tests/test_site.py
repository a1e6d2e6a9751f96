"""The site of the documentation: pages made from the code, links that lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

from website.pages import PAGES, page
from website.staged import ELSEWHERE, ROOT, for_site, stage


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_says_what_the_code_says(name):
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")

    assert committed == page(name), "make reference writes it again"


def test_every_page_is_found_from_the_menu(tmp_path):
    stage(tmp_path / "docs")
    pages = {
        p.relative_to(tmp_path / "docs").as_posix() for p in tmp_path.rglob("*.md")
    }
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))

    assert _named(nav["project"]["nav"]) == pages - {"adr/TEMPLATE.md"}


def _named(entry):
    """The pages that a part of the menu names."""
    if isinstance(entry, str):
        return {entry}
    entries = entry.values() if isinstance(entry, dict) else entry
    return set().union(*map(_named, entries))


@pytest.mark.parametrize(
    ("source", "written", "in_the_site"),
    [
        ("README.md", "[a](docs/ui.md#b)", "[a](ui.md#b)"),
        ("README.md", "![a](docs/images/graph.png)", "![a](images/graph.png)"),
        ("README.md", "[`shards.py`](batch_assets/lake/shards.py)", "`batch_assets/lake/shards.py`"),
        ("README.md", "[licence](LICENSE)", "licence"),
        ("docs/ui.md", "[a](../README.md#what)", "[a](index.md#what)"),
        ("docs/ui.md", "[a](alerts.md)", "[a](alerts.md)"),
        ("docs/ui.md", "[a](#here)", "[a](#here)"),
        ("docs/ui.md", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
        ("docs/adr/0001-libraries.md", "[a](../gates.md)", "[a](../gates.md)"),
        ("docs/adr/0001-libraries.md", "[a](../../benchmarks/README.md#c)", "[a](../benchmarks.md#c)"),
        ("benchmarks/README.md", "![a](results.png)", "![a](results.png)"),
    ],
)  # fmt: skip
def test_a_link_leads_to_the_same_place_in_the_site(source, written, in_the_site):
    assert for_site(written, source) == in_the_site


def test_what_lies_elsewhere_is_there():
    assert all(Path(ROOT / source).is_file() for source in ELSEWHERE)
    assert re.search(r"^make docs$", (ROOT / ".ci/run").read_text(), re.M)
