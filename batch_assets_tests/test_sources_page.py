"""What docs/sources.md shows can be typed, and it has every kind and extra."""

import re
import sys
import tomllib
from dataclasses import replace

import pyarrow as pa
import pytest
import yaml
from pydantic import TypeAdapter

from batch_assets.lake.sources import SOURCES, Source
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.toys import context_of

PAGE = (FLIGHTS / "docs" / "sources.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
DECLARED = [yaml.safe_load(text)["source"] for kind, text in BLOCKS if kind == "yaml"]


@pytest.mark.parametrize("declared", DECLARED, ids=lambda source: source["kind"])
def test_a_source_of_the_page_can_be_declared(declared):
    source = TypeAdapter(Source).validate_python(declared)

    assert source.kind == declared["kind"]


def test_the_page_has_a_row_and_an_example_of_each_kind():
    kinds = PAGE.partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", kinds, re.MULTILINE)
    rows = [(kind, cell) for kind, cell in lines if kind != "kind"]
    shown_elsewhere = {"sql", "parquet", "delta", "asset"}

    assert {kind for kind, _ in rows} == set(SOURCES)
    assert {one["kind"] for one in DECLARED} == set(SOURCES) - shown_elsewhere
    pyproject = tomllib.loads((FLIGHTS / "pyproject.toml").read_text("utf-8"))
    extras = {name for _, cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert extras <= set(pyproject["project"]["optional-dependencies"])
    assert extras


def test_the_function_of_the_page_gives_rows(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    # Set and taken away, so that it is away again afterwards, too.
    for name in ("shop", "shop.features"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    (body,) = [text for kind, text in BLOCKS if kind == "python"]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "shop" / "features.py").write_text(body, encoding="utf-8")
    (declared,) = [one for one in DECLARED if one["kind"] == "python"]
    columns = pa.schema({"user_id": pa.int64(), "visits": pa.float32()})
    context = replace(context_of(tmp_path), columns=columns)

    with TypeAdapter(Source).validate_python(declared).read(context) as reader:
        assert reader.read_all().to_pylist() == [{"user_id": 1, "visits": 7.0}]
