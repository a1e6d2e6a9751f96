"""A page of HTML as its readers get it: its words, what it asks for, what it may not say."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.reports.night import WrittenReport, write_report
from batch_assets.spec import PipelineSpec
from batch_assets_tests import publishing
from batch_assets_tests.publishing import OPEN, root_of
from batch_assets_tests.toys import DAY, copy_rows, make_spec, validate

ODD = re.compile(r"\b(nan|NaN|None|inf|Infinity|undefined)\b")
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """What stands on a page: `words` that are seen, and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.attributes = html, list[tuple[str, str, str]]()
        self.tags, self._open, self._text = set[str](), list[str](), list[str]()
        self.feed(html)
        self.close()
        assert self._open == [], "elements that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"}.intersection(self._open):
            self._text.append(data)

    @property
    def words(self) -> str:
        """All that is read, with single spaces."""
        return " ".join(" ".join(self._text).split())


def read(path: Any) -> Page:
    """Read a report, which must open anywhere and say nothing that is no word."""
    assert isinstance(path, Path)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith("#"), (tag, name, value)
    assert "http" not in html
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert not (found := ODD.search(html)), html[found.start() - 80 : found.end() + 20]
    assert len(html) < 1_000_000
    return page


def scored(lake: Lake, release: Release, rows: Any, day: str = DAY) -> None:
    """A day that is validated and scored, and not published."""
    copy_rows(lake, rows, day=day, contract=release.contract)
    validate(lake, day=day, contract=release.contract)
    publishing.score(lake, release, day)


def report(
    lake: Lake, day: str = DAY, spec: PipelineSpec | None = None, **changes: Any
) -> tuple[WrittenReport, Page]:
    """Write the report of a night of the toy, and read it."""
    spec = spec or make_spec(name=lake.pipeline, **({"gates": OPEN} | changes))
    written = write_report(root_of(lake), spec, day)
    return written, read(written.path)
