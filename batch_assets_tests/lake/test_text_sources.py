"""CSV and JSON: each value is what the contract says, or an error with its place."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from batch_assets.errors import ContractError, SourceError
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.raw import Copied, RawSettings, copy_day
from batch_assets.lake.side_tables import (
    copy_side_tables,
    read_side_table,
    side_tables_of,
)
from batch_assets.lake.sources import Source, csv
from batch_assets.lake.tables import Lake
from batch_assets.quality.performance.columns import check_outcomes
from batch_assets_tests.steps import take
from batch_assets_tests.toys import DAY, context_of, copying, make_contract, read_day

BIG = 2**53 + 1
WANTED = pa.schema(
    {
        "user_id": pa.string(),
        "n": pa.int64(),
        "small": pa.int8(),
        "x": pa.float32(),
        "on": pa.bool_(),
    }
)
LISTS = WANTED.append(pa.field("seen", pa.list_(pa.int64())))
FLOATS = pa.schema({"user_id": pa.string(), "x": pa.float32()})


def declared(kind: str, **options: Any) -> Any:
    """A source of all files of the project whose names end in its kind."""
    options = {"kind": kind, "glob": f"*.{kind}"} | options
    return TypeAdapter(Source).validate_python(options)


def read(
    folder: Path,
    kind: str,
    *files: bytes | str,
    wanted: pa.Schema | None = WANTED,
    **options: Any,
) -> list[dict]:
    """The rows of files of a kind, with the columns that are wanted."""
    for number, data in enumerate(files):
        data = data.encode() if isinstance(data, str) else data
        (folder / f"{number}.{kind}").write_bytes(data)
    context = replace(context_of(folder), columns=wanted)
    with declared(kind, **options).read(context) as reader:
        return reader.read_all().to_pylist()


def refused(folder: Path, kind: str, *files: bytes | str, **options: Any) -> str:
    with pytest.raises(SourceError) as error:
        read(folder, kind, *files, **options)
    return str(error.value).replace(f"{folder}/", "")


def test_a_value_of_a_csv_is_what_the_contract_says_and_nothing_is_guessed(tmp_path):
    rows = read(
        tmp_path,
        "csv",
        f"user_id,n,small,x,on\n007,{BIG},1,0.1,true\n1e5,-1,-128,1e3,f\n",
    )

    assert [row["user_id"] for row in rows] == ["007", "1e5"]
    assert [row["n"] for row in rows] == [BIG, -1]
    assert [row["small"] for row in rows] == [1, -128]
    assert rows[0]["x"] == pa.scalar(0.1, pa.float32()).as_py()
    assert [row["on"] for row in rows] == [True, False]


def test_an_empty_field_of_a_csv_is_null_and_a_quoted_one_is_text(tmp_path):
    rows = read(tmp_path, "csv", 'user_id,n,x,on\n"",,,\n,1,1,1\n"a\nb",1,1,1\n')

    assert rows[0] == {"user_id": "", "n": None, "x": None, "on": None}
    assert [row["user_id"] for row in rows] == ["", None, "a\nb"]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("n", "1,5"),
        ("n", "1.5"),
        ("n", "1e3"),
        ("n", "9223372036854775808"),
        ("n", "NA"),
        ("small", "128"),
        ("x", "1,5"),
        ("on", "yes"),
    ],
)
def test_a_value_that_is_none_of_its_type_is_named_with_its_row(tmp_path, column, text):
    said = refused(tmp_path, "csv", f'user_id,{column}\na,1\nb,"{text}"\n')

    assert said.startswith("0.csv can't be read as CSV: ")
    assert f"column '{column}', row 3 (the header is row 1): " in said
    assert f"'{text}'" in said
    assert "Nothing was committed" in said


def test_a_row_of_a_later_block_is_named_by_its_number(tmp_path):
    lines = f"{'x' * 300},7\n" * 40_000

    said = refused(tmp_path, "csv", f"user_id,n\n{lines}x,1.5\n")

    assert "column 'n', row 40002 " in said


def test_a_text_may_have_lines_of_its_own_wherever_a_block_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(csv, "BLOCK_BYTES", 1_000)
    text = f"{'x' * 150}\n{'x' * 150}"

    rows = read(tmp_path, "csv", "user_id,n\n" + f'"{text}",7\n' * 100)

    assert rows == [{"user_id": text, "n": 7}] * 100


def test_a_csv_may_be_written_in_another_way(tmp_path):
    how = {"delimiter": ";", "decimal": ",", "encoding": "latin-1"}
    data = "user_id;x\nø;1,5\n".encode("latin-1")
    assert read(tmp_path, "csv", data, wanted=FLOATS, **how) == [
        {"user_id": "ø", "x": 1.5}
    ]

    how = {"delimiter": "\t", "quote": "'", "null_values": ["NULL"], "header": False}
    columns = {"user_id": "string", "x": "float32"}
    data = "'a\tb'\tNULL\n'NULL'\t2\n"
    assert read(tmp_path, "csv", data, wanted=None, columns=columns, **how) == [
        {"user_id": "a\tb", "x": None},
        {"user_id": "NULL", "x": 2.0},
    ]


def test_how_a_csv_is_read_is_part_of_what_it_is(tmp_path):
    (tmp_path / "a.csv").write_text("user_id;x\n", encoding="utf-8")
    context = context_of(tmp_path)
    first = declared("csv", delimiter=";").identity(context)

    assert declared("csv", delimiter=";").identity(context) == first
    assert declared("csv", delimiter=";", decimal=",").identity(context) != first


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_packed_file_is_unpacked_and_one_that_breaks_off_is_an_error(
    tmp_path, kind, suffix
):
    # Text that does not pack well, so that half of the bytes are half of the lines.
    names = [f"{n * 2654435761 % 2**32:08x}" for n in range(20_000)]
    text = {
        "csv": "user_id\n" + "".join(f"{name}\n" for name in names),
        "json": "".join(f'{{"user_id":"{name}"}}\n' for name in names),
    }[kind]
    path = tmp_path / f"a.{kind}.{suffix}"
    codec = {"gz": "gzip", "zst": "zstd"}[suffix]
    with pa.output_stream(str(path), compression=codec) as packed:
        packed.write(text.encode())
    glob = f"*.{kind}.{suffix}"

    assert len(read(tmp_path, kind, glob=glob)) == 20_000
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = refused(tmp_path, kind, glob=glob)
    assert said.startswith(f"{path.name} can't be read as ")


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ([""], "Empty CSV"),
        (["user_id,n\na,1,2\n"], "row 2 (the header is row 1): Expected 2 columns"),
        (["user_id,n\na\n"], "Expected 2 columns, got 1"),
        (["user_id,user_id\na,b\n"], "two columns named 'user_id'"),
        (["user_id,n\na,1\n", "user_id\na\n"], "other columns than 0.csv"),
        ([b"us\xffer\na\n"], "can't decode byte 0xff"),
        ([b"user_id,n\na,\xff\n"], "column 'n', row 2 (the header is row 1): "),
    ],
)
def test_a_file_that_is_no_csv_is_refused(tmp_path, files, error):
    assert error in refused(tmp_path, "csv", *files)


def test_files_may_have_their_columns_in_any_order(tmp_path):
    rows = read(tmp_path, "csv", "user_id,n\na,1\n", "n,user_id\n2,b\n")

    assert rows == [{"user_id": "a", "n": 1}, {"user_id": "b", "n": 2}]


def test_a_csv_can_not_hold_lists(tmp_path):
    assert "list, which a CSV can't hold" in refused(
        tmp_path, "csv", "user_id,seen\na,1\n", wanted=LISTS
    )


def test_a_value_of_json_is_what_the_contract_says(tmp_path):
    rows = read(
        tmp_path,
        "json",
        f'{{"user_id":"007","n":{BIG},"x":0.1,"on":true,"seen":[1,{BIG}]}}\n\n'
        '{"seen":[],"n":null}\n',
        wanted=LISTS,
    )

    assert rows[0]["user_id"] == "007"
    assert rows[0]["n"] == BIG
    assert rows[0]["seen"] == [1, BIG]
    assert rows[1] == dict.fromkeys(WANTED.names) | {"seen": []}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ('"n":1.5', "line 3: Failed to convert JSON to int64, couldn't parse:1.5"),
        ('"n":1e3', "couldn't parse:1e3"),
        ('"n":9223372036854775808', "couldn't parse:9223372036854775808"),
        ('"small":128', "couldn't parse:128"),
        ('"n":"7"', "line 3: field 'n' is of type string, expected number"),
        ('"user_id":7', "field 'user_id' is of type number, expected string"),
        ('"on":1', "field 'on' is of type number, expected boolean"),
        ('"seen":1', "field 'seen' is of type number, expected array"),
        ('"zeta":1,"eta":2', "line 3: it has fields that neither contract nor `columns` has: 'zeta', 'eta'"),
        ('"n":1,"n":2', "specified twice"),
        ('"n":', "line 3: "),
    ],
)  # fmt: skip
def test_a_line_of_json_that_does_not_fit_is_named(tmp_path, fields, error):
    said = refused(
        tmp_path, "json", f'{{"user_id":"a"}}\n\n{{{fields}}}\n', wanted=LISTS
    )

    assert said.startswith("0.json can't be read as JSON, an object on each line: ")
    assert error in said


def test_a_line_of_a_later_block_is_named_by_its_number(tmp_path):
    lines = f'{{"user_id":"{"x" * 300}"}}\n' * 40_000

    assert "line 40,001: " in refused(tmp_path, "json", f'{lines}{{"n":1.5}}\n')


def test_one_array_of_objects_is_no_line_each(tmp_path):
    said = refused(tmp_path, "json", '[{"user_id":"a"}]')

    assert "line 1: the line is of type array, expected object" in said


def test_a_file_of_json_without_a_line_has_no_rows(tmp_path):
    assert read(tmp_path, "json", "", "\n \n", '{"user_id":"a"}') == [
        dict.fromkeys(WANTED.names) | {"user_id": "a"}
    ]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_no_type_is_guessed_where_none_is_told(tmp_path, kind):
    files = {"csv": "item,n\n007,1\n", "json": '{"item":"007","n":1}\n'}
    said = refused(tmp_path, kind, files[kind], wanted=None)
    assert "none is guessed: declare them" in said

    columns = {"item": "string", "n": "int64"}
    assert read(tmp_path, kind, files[kind], wanted=None, columns=columns) == [
        {"item": "007", "n": 1}
    ]


def copy(lake: Lake, folder: Path, kind: str, data: str, **options: Any) -> Copied:
    """Take the day of a file, as the toy contract wants it."""
    (folder / f"a.{kind}").write_text(data, encoding="utf-8")
    source = declared(kind, **options)
    return take(lake, source, context_of(folder), **copying(make_contract()))


def test_a_csv_is_taken_once_and_again_when_it_changes(lake, tmp_path):
    header = "user_id,age,visits,plan,active\n"
    first = copy(lake, tmp_path, "csv", header + "1,30,,free,true\n")
    same = copy(lake, tmp_path, "csv", header + "1,30,,free,true\n")
    other = copy(lake, tmp_path, "csv", header + "2,31,1.5,pro,false\n")

    assert (first.unchanged, same.unchanged, other.unchanged) == (False, True, False)
    assert first.job == same.job != other.job
    assert read_day(lake, "raw_features").to_pylist() == [
        {"user_id": 2, "age": 31, "visits": 1.5, "plan": "pro", "active": False}
    ]


@pytest.mark.parametrize(
    ("header", "line"),
    [("1 extra: 'zeta'", ",zeta"), ("1 missing: 'active'", None)],
)
def test_a_column_too_many_or_too_few_is_the_contracts_to_refuse(
    lake, tmp_path, header, line
):
    columns = "user_id,age,visits,plan,active"
    columns = columns + line if line else columns.removesuffix(",active")

    with pytest.raises(ContractError, match=header):
        copy(lake, tmp_path, "csv", columns + "\n")

    assert lake.raw_features.parts(DAY) == []


def test_a_side_table_is_read_with_the_columns_that_it_declares(lake, tmp_path):
    with gzip.open(tmp_path / "denied.csv.gz", "wt", encoding="utf-8") as file:
        file.write("item\n007\n")
    denied = declared("csv", glob="denied.csv.gz", columns={"item": "string"})

    taken = copy_side_tables(lake, {"denied": denied}, context_of(tmp_path), newest=DAY)

    assert taken == {"denied": 1}
    (table,) = side_tables_of(lake, DAY, ("denied",))
    assert read_side_table(table).to_pylist() == [{"item": "007"}]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("json", '{"user_id":1,"left":true}\n{"user_id":2,"left":false}\n'),
        ("csv", "user_id,left,note\n1,true,moved\n2,f,\n"),
    ],
)
def test_outcomes_are_read_with_the_columns_that_they_declare(
    lake, tmp_path, kind, data
):
    (tmp_path / f"a.{kind}").write_text(data, encoding="utf-8")
    source = declared(kind, columns={"user_id": "int64", "left": "bool"})
    schema = pa.schema({"user_id": pa.int64(), "left": pa.float64()})

    copy_day(
        DayRun(lake, DAY, lambda: None, lambda _: None),
        source,
        context_of(tmp_path),
        RawSettings(schema, 2, 100, into=lake.outcomes),
        check=lambda found: check_outcomes(found, schema, "the source"),
        newest=DAY,
    )

    assert read_day(lake, "outcomes")["left"].to_pylist() == [1.0, 0.0]
