"""The sections of two kinds of source have each of their fields, and a YAML that is valid."""

import re

import pytest
import yaml

from batch_assets.spec import SOURCES
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.toys import make_spec

TEXT = (FLIGHTS / "docs" / "sources.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["iceberg", "kafka"])
def test_a_section_has_every_field_its_default_and_a_valid_yaml(kind):
    section = TEXT.partition(f"\n## {kind.title()}\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert make_spec(**yaml.safe_load(block)).source.kind == kind
    rows = dict(re.findall(r"^\| (`.+?`) \| (.*?) \|", section, re.MULTILINE))
    told = {name: row for names, row in rows.items() for name in names.split(", ")}
    fields = SOURCES[kind].model_fields
    assert {name.strip("`") for name in told} == fields.keys() - {"kind", "deps"}
    for name, field in fields.items():
        if isinstance(field.default, str | int | float) and f"`{name}`" in told:
            assert str(field.default) == told[f"`{name}`"].strip("`"), name
