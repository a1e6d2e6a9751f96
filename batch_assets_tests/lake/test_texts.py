"""Text that is not UTF-8 is one row's fault, from whatever source it comes."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import LakeError, SourceError
from batch_assets.formats import RECEIPT as FORMAT
from batch_assets.lake import receipts
from batch_assets.lake import texts as texts_module
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.handed_rows import handed_rows
from batch_assets.lake.parts import RECEIPT
from batch_assets.lake.raw import RawSettings, copy_day
from batch_assets.lake.receipts import read_receipt
from batch_assets.lake.side_tables import copy_side_tables
from batch_assets.lake.sources import (
    AssetSource,
    CsvSource,
    JsonSource,
    ParquetSource,
    PythonSource,
    Source,
    SqlSource,
)
from batch_assets.lake.tables import Lake
from batch_assets.lake.texts import NOT_UTF8, taken
from batch_assets.parallel import on_cores
from batch_assets.quality.validation import _pieces
from batch_assets_tests.steps import take
from batch_assets_tests.toys import (
    DAY,
    context_of,
    copy_rows,
    copying,
    make_contract,
    make_rows,
    not_utf8,
    pin_rows,
    project_of,
    read_day,
    validate,
    write_source,
)

STRASSE = "Stra\u00dfe".encode("latin-1")
TEXTS = make_contract(
    "string", features=[{"name": "plan", "dtype": "string", "categories": ["a", "b"]}]
)
SCHEMA = TEXTS.raw_schema()
# Of four rows one has a broken plan and one a broken key.
KEYS, PLANS = [b"k1", b"k\xff", b"k3", b"k4"], [b"a", b"b", STRASSE, b"b"]
GOOD = [("k1", "a"), ("k4", "b")]
BAD = [
    ("k3", "Stra\ufffde", "plan is not UTF-8 at byte 4 (df)"),
    ("k\ufffd (bytes 6bff)", "b", "user_id is not UTF-8 at byte 1 (ff)"),
]


def four() -> pa.Table:
    return pa.table({"user_id": not_utf8(KEYS), "plan": not_utf8(PLANS)})


def must_be_split(lake: Lake) -> None:
    """Each row is where it belongs, and the books close."""
    good = read_day(lake, "validated_features")
    assert good["user_id"].to_pylist() == [key for key, _ in GOOD]
    bad = read_day(lake, "quarantined_rows")
    bad.validate(full=True)
    found = bad.to_pylist()
    assert [(row["user_id"], row["plan"], row["rules"][0]) for row in found] == BAD
    books = lake.books(DAY, scoring=False)
    assert not books.open_after_validation()
    assert books.total.raw.rows == 4


@pytest.mark.parametrize("column", ["user_id", "plan"])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_row_whose_text_is_not_utf8_is_quarantined(lake, column, pinned):
    contract = make_contract("string")
    rows = make_rows(200, key_dtype="string")
    texts = [one.encode() for one in rows[column].to_pylist()]
    texts[117] = STRASSE
    at = rows.schema.get_field_index(column)
    broken = rows.set_column(at, column, not_utf8(texts))

    (pin_rows if pinned else copy_rows)(lake, broken, contract=contract)
    validated = validate(lake, contract=contract)

    assert validated.rules[f"{column} is not UTF-8"] == 1
    (bad,) = read_day(lake, "quarantined_rows").to_pylist()
    shown = "Stra\ufffde" + (f" (bytes {STRASSE.hex()})" if column == "user_id" else "")
    assert bad[column] == shown
    assert bad["rules"][0] == f"{column} is not UTF-8 at byte 4 (df)"
    assert validated.total.rows == 199
    # Run again, nothing is made anew.
    before = read_day(lake, "quarantined_rows")
    assert (pin_rows if pinned else copy_rows)(
        lake, broken, contract=contract
    ).unchanged
    assert validate(lake, contract=contract).unchanged
    assert read_day(lake, "quarantined_rows").equals(before)


def test_two_keys_that_look_alike_are_two_and_one_that_is_there_twice_is_one(lake):
    whole = "k\ufffd".encode()
    rows = pa.table(
        {
            "user_id": not_utf8([b"k\xff", b"k\xfe", whole, b"x\xff", b"x\xff"]),
            "plan": ["a", "b", "a", "b", "a"],
        }
    )

    copy_rows(lake, rows, contract=TEXTS)
    validated = validate(lake, contract=TEXTS)

    assert validated.rules == {
        "user_id is not UTF-8": 4,
        "user_id is there more than once": 2,
    }
    assert read_day(lake, "validated_features")["user_id"].to_pylist() == ["k\ufffd"]


def test_a_long_key_is_told_by_a_digest_of_its_bytes():
    keys = [b"\xff" * 1_000, b"\xff" * 999 + b"\xfe"]
    batch = pa.record_batch({"user_id": not_utf8(keys)})

    schema = pa.schema({"user_id": pa.string()})
    one, other = taken(batch, schema, "user_id", "").rows["user_id"].to_pylist()

    assert one[:1_000] == other[:1_000] == "\ufffd" * 1_000
    assert one != other
    assert len(one) == len(other) == 1_000 + len(" (sha256 )") + 64


def from_parquet(project: Path) -> Source:
    pq.write_table(four(), project / "rows.parquet")
    return ParquetSource(kind="parquet", glob="rows.parquet")


def from_csv(project: Path) -> Source:
    lines = [
        b"user_id,plan",
        *(b",".join(row) for row in zip(KEYS, PLANS, strict=True)),
    ]
    (project / "rows.csv").write_bytes(b"\n".join(lines))
    return CsvSource(kind="csv", glob="rows.csv")


def from_json(project: Path) -> Source:
    lines = [
        b'{"user_id": "%s", "plan": "%s"}' % row
        for row in zip(KEYS, PLANS, strict=True)
    ]
    (project / "rows.json").write_bytes(b"\n".join(lines))
    return JsonSource(kind="json", glob="rows.json")


def from_python(project: Path) -> Source:
    # The file of the rows is read with Arrow by the function, as any library might.
    pq.write_table(four(), project / "rows.parquet")
    (project / "broken_rows.py").write_text(
        "import pyarrow.parquet as pq\n"
        f"def rows(asked):\n    yield pq.read_table({str(project / 'rows.parquet')!r})\n",
        encoding="utf-8",
    )
    return PythonSource(kind="python", callable="broken_rows:rows")


def from_asset(project: Path) -> Source:
    return AssetSource(kind="asset", asset="rows")


@pytest.mark.parametrize(
    "source_of", [from_parquet, from_csv, from_json, from_python, from_asset]
)
def test_every_source_that_gives_us_the_bytes_goes_on_row_by_row(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, source_of: Any
) -> None:
    project = project_of(lake)
    project.mkdir(parents=True, exist_ok=True)
    monkeypatch.syspath_prepend(str(project))
    source = source_of(project)
    handed = {"rows": handed_rows([four()], "rows", project)}
    context = replace(context_of(project), columns=SCHEMA, handed=handed)

    take(lake, source, context, **copying(TEXTS))
    validate(lake, contract=TEXTS)

    must_be_split(lake)


def test_a_pinned_piece_travels_to_another_machine_and_gives_the_same_rows(lake):
    pin_rows(lake, four(), contract=TEXTS, files=1)
    validate(lake, contract=TEXTS)
    must_be_split(lake)

    (piece, *_) = _pieces(lake.raw_features.parts(DAY), TEXTS, 10, on_cores)
    there = pickle.loads(pickle.dumps(piece))

    (batch,) = there.read()
    assert batch.equals(next(piece.read()))
    assert batch[NOT_UTF8].null_count == 2


def test_the_table_of_raw_rows_is_valid_and_has_the_sources_columns_alone(lake):
    copy_rows(lake, four(), contract=TEXTS)

    table = deltalake.DeltaTable(str(lake.raw_features.path)).to_pyarrow_table()

    table.validate(full=True)
    assert {*table.column_names} - {"day", "shard"} == {"user_id", "plan"}
    # A program that does not know of such rows would have them scored.
    bodies = [
        json.loads(pq.read_metadata(part.path).metadata[RECEIPT])["body"]
        for part in lake.raw_features.parts(DAY)
    ]
    broken = [body["facts"].get("not_utf8", 0) for body in bodies]
    assert sum(broken) == 2
    formats = [body.get("format", 1) for body in bodies]
    assert formats == [2 if rows else 1 for rows in broken]


def test_an_older_program_refuses_a_part_that_tells_of_texts(lake, monkeypatch):
    copied = copy_rows(lake, four(), contract=TEXTS)
    (part, *_) = [one for one in copied.parts if one.receipt.not_utf8]
    data = pq.read_metadata(part.path).metadata[RECEIPT]
    assert read_receipt(data) == part.receipt

    monkeypatch.setattr(receipts, "RECEIPT", replace(FORMAT, version=1))

    with pytest.raises(LakeError, match="a newer batch-assets wrote it"):
        read_receipt(data)


def test_a_day_that_was_taken_before_texts_were_told_of_is_read_as_ever(
    lake, monkeypatch
):
    rows = make_rows(50)
    with monkeypatch.context() as before:
        before.setattr(RawSettings, "written", property(lambda self: self.schema))
        copy_rows(lake, rows)
    names = {pq.read_schema(p.path).names[-1] for p in lake.raw_features.parts(DAY)}
    assert NOT_UTF8 not in names

    assert copy_rows(lake, rows).unchanged
    assert validate(lake).total.rows == 50


def test_a_list_of_a_negative_length_is_refused_beside_text_that_is_not_utf8():
    lists = pa.Array.from_buffers(
        pa.list_(pa.string()),
        2,
        [None, pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 1)))],
        children=[not_utf8([b"a", b"\xff"])],
    )
    batch = pa.record_batch({"user_id": [1, 2], "items": lists})
    schema = pa.schema({"user_id": pa.int64(), "items": pa.list_(pa.string())})

    with pytest.raises(SourceError, match="'items' of rows holds what is no value"):
        taken(batch, schema, "user_id", "rows")


@pytest.mark.parametrize(
    "turned",
    [
        lambda texts: texts.cast(pa.large_string()),
        lambda texts: texts.cast(pa.string_view()),
        lambda texts: pa.DictionaryArray.from_arrays(pa.array(range(4)), texts),
    ],
    ids=["large", "view", "dictionary"],
)
@pytest.mark.parametrize("start", [0, 1])
def test_texts_are_found_however_they_lie(turned, start):
    texts = turned(not_utf8([b"a", b"b\xff", None, b"\xed\xa0\x80"]))
    batch = pa.record_batch({"k": [1, 2, 3, 4], "t": texts}).slice(start)
    schema = pa.schema({"k": pa.int64(), "t": pa.string()})

    came = taken(batch, schema, "k", "rows")

    expected = ["a", "b\ufffd", None, "\ufffd\ufffd\ufffd"]
    said = [
        None,
        ["t is not UTF-8 at byte 1 (ff)"],
        None,
        ["t is not UTF-8 at byte 0 (ed)"],
    ]
    assert came.rows["t"].to_pylist() == expected[start:]
    assert came.found is not None
    assert came.found.to_pylist() == said[start:]


ELEMENTS = not_utf8([b"a", b"b", b"\xff", b"below a null\xff", b"c", b"d\xff"])
NULLS = pa.array([False, False, True, False])
LISTS = pa.ListArray.from_arrays(
    pa.array([0, 1, 3, 4, 6], pa.int32()), ELEMENTS, mask=NULLS
)


@pytest.mark.parametrize(
    "lists",
    [LISTS, LISTS.cast(pa.large_list(pa.large_string()))],
    ids=["list", "large"],
)
@pytest.mark.parametrize("start", [0, 1, 2])
def test_elements_are_found_however_lists_lie(lists: pa.Array, start: int) -> None:
    batch = pa.record_batch({"k": [1, 2, 3, 4], "t": lists}).slice(start)
    schema = pa.schema({"k": pa.int64(), "t": pa.list_(pa.string())})

    came = taken(batch, schema, "k", "rows")

    came.rows.validate(full=True)
    assert came.found is not None
    expected = [["a"], ["b", "\ufffd"], None, ["c", "d\ufffd"]]
    said = [
        None,
        ["t is not UTF-8 at byte 0 (ff) of element 1"],
        None,
        ["t is not UTF-8 at byte 1 (ff) of element 1"],
    ]
    assert came.rows["t"].to_pylist() == expected[start:]
    assert came.found.to_pylist() == said[start:]


@pytest.mark.parametrize("values", [[b"a", b"b", b"c\xff", b"d"], [7, 8, 9, 10]])
@pytest.mark.parametrize("start", [0, 1])
def test_views_of_lists_in_any_order_are_the_lists_that_they_show(values, start):
    texts = isinstance(values[0], bytes)
    flat = not_utf8(values) if texts else pa.array(values)
    views = pa.ListViewArray.from_arrays(
        pa.array([2, 0, 1, 3], pa.int32()),
        pa.array([2, 2, 1, 0], pa.int32()),
        flat,
        mask=pa.array([False, False, True, False]),
    )
    batch = pa.record_batch({"k": [1, 2, 3, 4], "t": views}).slice(start)
    schema = pa.schema({"k": pa.int64(), "t": pa.list_(flat.type)})

    came = taken(batch, schema, "k", "rows")

    came.rows.validate(full=True)
    shown = ["a", "b", "c\ufffd", "d"] if texts else values
    expected = [shown[2:4], shown[0:2], None, []]
    assert came.rows["t"].to_pylist() == expected[start:]
    assert came.broken == (texts and not start)


def test_rows_that_are_whole_are_looked_at_once_and_not_copied(monkeypatch):
    batch = pa.record_batch({"k": [1, 2], "t": ["a", "b"], "b": [b"\xff", None]})

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(texts_module, "_mended", never)
    came = taken(batch, batch.schema, "k", "rows")

    assert came.found is None
    there = batch["t"].buffers()[2].address
    assert came.rows["t"].chunk(0).buffers()[2].address == there


@pytest.mark.parametrize("form", ["parquet", "csv", "json"])
def test_what_duckdb_refuses_itself_names_the_place_and_a_way_around(
    tmp_path: Path, form: str
) -> None:
    {"parquet": from_parquet, "csv": from_csv, "json": from_json}[form](tmp_path)
    (tmp_path / "q.sql").write_text("SELECT plan FROM t", encoding="utf-8")
    source = SqlSource(kind="sql", query="q.sql", tables={"t": f"rows.{form}"})

    with (
        pytest.raises(SourceError) as told,
        source.read(context_of(tmp_path)) as reader,
    ):
        reader.read_all()

    said = str(told.value)
    column = "column 'user_id' of " if form == "parquet" else ""
    assert f"{column}{tmp_path / f'rows.{form}'} holds text that is not UTF-8" in said
    assert "read the file by a source of its own kind" in said
    assert ("`decode(x, 'replace')`" in said) == (form == "parquet")


def test_the_ways_around_duckdb_work(lake: Lake) -> None:
    project = project_of(lake)
    project.mkdir(parents=True, exist_ok=True)
    as_bytes = pa.table({"user_id": ["k1", "k2"], "plan": pa.array([b"a", b"b\xff"])})
    pq.write_table(as_bytes, project / "rows.parquet")
    text = "SELECT user_id, decode(plan, 'replace') AS plan FROM t"
    (project / "q.sql").write_text(text, encoding="utf-8")
    source = SqlSource(kind="sql", query="q.sql", tables={"t": "rows.parquet"})

    with source.read(context_of(project)) as reader:
        rows = reader.read_all()

    assert rows["plan"].to_pylist()[0] == "a"
    assert rows["plan"].to_pylist()[1].startswith("b")
    rows.validate(full=True)


def test_a_side_table_and_outcomes_have_no_quarantine_and_are_refused(
    lake: Lake,
) -> None:
    project = project_of(lake)
    write_source(project, four())
    source = ParquetSource(kind="parquet", glob="days/{{ day }}.parquet")
    settings = RawSettings(SCHEMA, 2, 100, into=lake.outcomes)

    with pytest.raises(SourceError, match="text that is not UTF-8: .* at byte"):
        copy_day(
            DayRun(lake, DAY, lambda: None, lambda _: None),
            source,
            context_of(project),
            settings,
            check=lambda schema: None,
            newest=DAY,
        )
    with pytest.raises(
        SourceError, match="the side table 'out' holds text .*'user_id'"
    ):
        copy_side_tables(
            lake, {"out": source}, context_of(project), newest=DAY, force=False
        )
    assert not lake.outcomes.parts(DAY)
