"""The site of the documentation: pages made from the code, links that lead somewhere."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from batch_assets.models.columns import SQL_TYPES
from batch_assets.models.contract import Feature, KeySpec
from batch_assets.models.input_specs import Ids, Input
from batch_assets.models.output_specs import AnyOutput
from website.pages import PAGES, page
from website.staged import ELSEWHERE, ROOT, for_site, stage


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_says_what_the_code_says(name):
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")

    assert committed == page(name), "make reference writes it again"


def test_the_table_of_types_has_every_one_that_can_be_declared():
    outputs = [get_args(one)[0] for one in get_args(get_args(AnyOutput)[0])]
    cells = [
        row.split(" | ")[1:4]
        for row in page("types.md").splitlines()
        if re.match(r"\| (key|feature|input|output) ", row)
    ]

    for kind in (KeySpec, Feature, *get_args(get_args(Input)[0]), *outputs):
        own = " ".join(
            row[0] for row in cells if row[0].startswith(f"`{kind.__name__}(")
        )
        dtype = kind.model_fields.get("dtype")
        # An id is no float, which the values of a sequence may be.
        types = set(get_args(dtype.annotation) if dtype else ()) - {
            kind is Ids and "float32"
        }
        assert own, kind
        assert (
            set(re.findall(r"dtype='(\w+)'", own.replace("Column(dtype=", ""))) == types
        )
    sql = set(re.findall(r"[A-Z]+", " ".join(row[2] for row in cells)))
    assert sql == set(SQL_TYPES.values())


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
