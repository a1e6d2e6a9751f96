"""A source's columns against the contract's: what is cast, what is said, what mends it."""

from datetime import date
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from batch_assets.errors import ContractError
from batch_assets.models.columns import check_columns, fits
from batch_assets.models.contract import FEATURE_TYPES
from batch_assets_tests.toys import (
    copy_rows,
    make_contract,
    make_rows,
    pin_rows,
    read_day,
    validate,
)

# Types as sources have them, and values of them at which a cast goes wrong.
EDGES = {
    **{
        dtype: [-(2 ** (dtype.bit_width - 1)), 2 ** (dtype.bit_width - 1) - 1]
        for dtype in (pa.int8(), pa.int16(), pa.int32(), pa.int64())
    },
    **{
        dtype: [2**dtype.bit_width - 1]
        for dtype in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    },
    pa.float32(): [1.7, 2.0**100, 3.4e38],
    pa.float64(): [0.1, 1.7, 1e300],
    **{
        pa.decimal128(digits, 0): [Decimal(10**digits - 1), Decimal(1 - 10**digits)]
        for digits in (2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 18, 19, 38)
    },
    pa.decimal128(9, 2): [Decimal("0.01"), Decimal("1.70")],
    pa.bool_(): [True, False],
    pa.string(): ["1", "1.7", "a"],
    pa.date32(): [date(2026, 1, 5)],
}
LOSSLESS = """
int8: int8 int16 int32 int64 float32 float64
int16: int16 int32 int64 float32 float64
int32: int32 int64 float64
int64: int64
uint8: int16 int32 int64 float32 float64
uint16: int32 int64 float32 float64
uint32: int64 float64
uint64:
float: float32 float64
double: float64
decimal128(2, 0): int8 int16 int32 int64 float32 float64
decimal128(3, 0): int16 int32 int64 float32 float64
decimal128(4, 0): int16 int32 int64 float32 float64
decimal128(5, 0): int32 int64 float32 float64
decimal128(7, 0): int32 int64 float32 float64
decimal128(8, 0): int32 int64 float64
decimal128(9, 0): int32 int64 float64
decimal128(10, 0): int64 float64
decimal128(15, 0): int64 float64
decimal128(16, 0): int64
decimal128(18, 0): int64
decimal128(19, 0):
decimal128(38, 0):
decimal128(9, 2):
bool: bool
string: string
date32[day]:
"""


@pytest.mark.parametrize("line", LOSSLESS.strip().splitlines())
def test_a_type_of_which_every_value_fits_is_cast_and_no_other(line):
    (got,) = [dtype for dtype in EDGES if str(dtype) == line.split(":")[0]]
    taken = [name for name, dtype in FEATURE_TYPES.items() if fits(got, dtype)]

    assert sorted(taken) == sorted(line.split(":")[1].split())
    column = pa.array(EDGES[got], got)
    for name in taken:
        assert column.cast(FEATURE_TYPES[name]).to_pylist() == column.to_pylist()


def refusal(got: pa.Schema, expected: pa.Schema) -> str:
    with pytest.raises(ContractError) as refused:
        check_columns(got, expected, "the source")
    return str(refused.value)


def pasted(error: str, query: str) -> str:
    """The query that an error prints, with the user's own where it says so."""
    start, end = error.index("SELECT\n"), error.rindex(")")
    return error[start : end + 1].replace("-- your query", query)


# What SQL makes of common expressions, what the contract wants, and what comes of it.
MENDED = [
    ("sum(v) FROM (VALUES (1), (2)) t(v)", "int64", 3),
    ("sum(v) FROM (VALUES (1), (2)) t(v)", "float32", 3.0),
    ("count(*)", "int32", 1),
    ("5::BIGINT", "int16", 5),
    ("5::BIGINT", "float32", 5.0),
    ("5::UBIGINT", "int64", 5),
    ("2.5::DOUBLE", "float32", 2.5),
    ("avg(v) FROM (VALUES (1), (2)) t(v)", "float32", 1.5),
    ("2.5", "float64", 2.5),
    ("2.00", "int32", 2),
    ("2.0::DOUBLE", "int64", 2),
    ("'2.5'", "float32", 2.5),
    ("'25'", "int32", 25),
    ("'true'", "bool", True),
    ("1", "bool", True),
    ("true", "int8", 1),
    ("true", "float32", 1.0),
    ("DATE '1970-01-11'", "int32", 10),
    ("DATE '1970-01-11'", "float32", 10.0),
    ("DATE '1970-01-11'", "string", "1970-01-11"),
    ("TIMESTAMP '1970-01-11 01:02:03'", "string", "1970-01-11 01:02:03"),
    ("7", "string", "7"),
    ("'\\xC3\\xA9'::BLOB", "string", "é"),
    ("NULL::DOUBLE", "int32", None),
]


def ask(query: str) -> pa.Table:
    with duckdb.connect() as connection:
        return connection.sql(query).to_arrow_table()


def schema_of(dtype: str) -> pa.Schema:
    return pa.schema([("user_id", pa.int64()), ("x", FEATURE_TYPES[dtype])])


@pytest.mark.parametrize(("sql", "dtype", "value"), MENDED, ids=str)
def test_the_printed_query_pasted_gives_the_contracts_columns(sql, dtype, value):
    select, _, rest = sql.partition(" FROM ")
    query = f"SELECT {select} AS x, 1::BIGINT AS user_id" + (rest and f" FROM {rest}")
    expected = schema_of(dtype)

    error = refusal(ask(query).schema, expected)
    found = ask(pasted(error, query))

    check_columns(found.schema, expected, "what was mended")
    assert found.column_names == ["user_id", "x"]  # The contract's order.
    assert found["x"].to_pylist() == [value]


@pytest.mark.parametrize(
    ("sql", "dtype"),
    [
        ("1.7::DOUBLE", "int32"),
        ("1.7", "int32"),
        ("'1.7'", "int32"),
        ("'a'", "float32"),
        ("5000000000", "int32"),
        ("3e9::DOUBLE", "int32"),
        ("300", "int8"),
        ("sum(v) FROM (VALUES (9223372036854775807), (1)) t(v)", "int64"),
        ("18446744073709551615::UBIGINT", "int64"),
        ("2", "bool"),
        ("0.5::DOUBLE", "bool"),
        ("'maybe'", "bool"),
        ("'nan'::DOUBLE", "int64"),
        ("1e300::DOUBLE", "float32"),
        ("'\\xFF'::BLOB", "string"),
    ],
)
def test_the_printed_query_stops_at_a_value_that_would_change(sql, dtype):
    select, _, rest = sql.partition(" FROM ")
    query = f"SELECT {select} AS x, 1::BIGINT AS user_id" + (rest and f" FROM {rest}")
    error = refusal(ask(query).schema, schema_of(dtype))

    with pytest.raises(duckdb.Error):
        ask(pasted(error, query))


def test_an_error_speaks_the_contracts_words_and_prints_the_query():
    got = pa.schema(
        [
            ("note", pa.string()),
            ("x", pa.float64()),
            ("n", pa.decimal128(38, 0)),
            ("t", pa.dictionary(pa.int8(), pa.float32())),
            ("user_id", pa.int32()),
        ]
    )
    expected = pa.schema(
        [("user_id", pa.int64()), ("x", pa.float32()), ("n", pa.int64())]
        + [("t", pa.float64()), ("gone", pa.bool_())]
    )

    assert refusal(got, expected).splitlines() == [
        "the source does not keep the contract; nothing was read or written.",
        "- 1 missing: 'gone'",
        "- 1 extra: 'note'",
        "- retyped: 'x', got: float64, expected: float32",
        "- retyped: 'n', got: decimal(38, 0), expected: int64",
        "This query gives the contract's columns, but 'gone'; put your own in its "
        "brackets, or, of a source of the kind parquet or delta, let what writes it cast "
        "so:",
        "",
        "SELECT",
        '    "user_id",',
        '    CAST("x" AS FLOAT) AS "x",',
        '    CAST("n" AS BIGINT) AS "n",',
        '    "t"',
        "FROM (",
        "    -- your query",
        ")",
        "",
        "Mend the source, or approve a release whose contract has these columns.",
    ]


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (pa.date32(), "bool"),
        (pa.timestamp("us"), "int64"),
        (pa.list_(pa.int8()), "string"),
        (pa.struct([("a", pa.int8())]), "float32"),
    ],
    ids=str,
)
def test_a_column_that_no_cast_turns_is_said_to_be_one(got, expected):
    schema = pa.schema([("user_id", pa.int64()), ("x", got)])

    error = refusal(schema, schema_of(expected))

    assert "SQL has no cast from" in error
    assert "CAST(" not in error


@pytest.mark.parametrize("take", [copy_rows, pin_rows])
def test_narrower_types_make_the_same_day(lake, take):
    """The contract's rows as a warehouse has them: copied, and pinned in a Delta table."""
    contract = make_contract(
        features=[
            {"name": "age", "dtype": "int32", "min": 0, "max": 120},
            {"name": "visits", "dtype": "float64", "nullable": True},
            {"name": "bought", "dtype": "int64"},
            {"name": "plan", "dtype": "string", "categories": ["free", "pro"]},
        ]
    )
    rows = make_rows(50).select(["user_id", "age", "visits", "plan"])
    rows = rows.set_column(0, "user_id", rows["user_id"].cast(pa.int32()))
    bought = pa.array([Decimal(n * 10**15) for n in range(50)], pa.decimal128(18, 0))
    rows = rows.append_column("bought", bought)
    ages = pa.array([200, *rows["age"].to_pylist()[1:]], pa.int16())
    rows = rows.set_column(1, "age", ages)
    take(lake, rows, contract=contract)

    validate(lake, contract=contract)

    good, bad = read_day(lake, "validated_features"), read_day(lake, "quarantined_rows")
    by_key = {row["user_id"]: row for row in rows.to_pylist()}
    assert len(good) == 49
    for row in good.to_pylist():
        was = by_key[row["user_id"]]
        assert row["age"] == was["age"]
        assert row["bought"] == pytest.approx(float(was["bought"]))
    assert bad["bought"].type == pa.int64()
    assert bad["rules"].to_pylist() == [["age is above max"]]


def test_a_column_of_nulls_alone_keeps_any_type():
    for dtype in FEATURE_TYPES.values():
        assert fits(pa.null(), dtype)
        assert pa.nulls(3).cast(dtype).null_count == 3
