"""What the views of a version select: its outputs as SQL has them, and as numbers.

    current           key and outputs: of a label its name, of a vector an array, of a
                      ranking two, without the items that are denied now
    current_numbers   the same as the columns that were loaded and proved, if some of the
                      outputs are more than a number

    items_<version>_<n>   what the positions of the n-th ranking of a version mean

It knows no pointer, and swaps nothing by itself.
"""

from collections.abc import Iterator

from psycopg import errors, sql

from batch_assets.sinks.base import SinkVersion
from batch_assets.sinks.postgres_schema import Schema
from batch_assets.snapshots.forms import (
    Form,
    LabelForm,
    RankingForm,
    VectorForm,
    rankings_of,
)

CURRENT = "current"
NUMBERS = "current_numbers"
# What the views add to the columns of a version; the lake lets no output have the
# names of the others.
SERVED_VERSION = "served_version"
DENYLIST = "denylist"

SQL_TYPES = {
    "float32": "real",
    "float64": "double precision",
    "int32": "integer",
    "int64": "bigint",
    "string": 'text COLLATE "C"',
}


def sql_type(dtype: str) -> sql.SQL:
    """Return the type of a column."""
    return sql.SQL(SQL_TYPES[dtype])


def table_name(version: str) -> str:
    """Return the table of a version's rows."""
    return f"rows_{_plain(version)}"


def items_names(about: SinkVersion) -> dict[str, str]:
    """Return the table of each ranking's items, by the ranking's name."""
    return {
        form.name: f"items_{_plain(about.name)}_{number}"
        for number, form in enumerate(rankings_of(about.manifest.forms))
    }


def view_of_numbers(about: SinkVersion) -> str:
    """Return the view that has a version's columns as they were loaded."""
    return NUMBERS if about.manifest.forms else CURRENT


def show(schema: Schema, about: SinkVersion) -> None:
    """Let the views show a version; whoever may read them still may."""
    numbers = select_numbers(schema.name, about)
    if about.manifest.forms:
        _replace(schema, CURRENT, select_outputs(schema.name, about))
        _replace(schema, NUMBERS, numbers)
    else:
        _replace(schema, CURRENT, numbers)
        schema.do("DROP VIEW IF EXISTS {schema}.{view}", view=sql.Identifier(NUMBERS))


def _replace(schema: Schema, name: str, query: sql.Composed) -> None:
    view = schema.sql("VIEW {schema}.{view} AS ", view=sql.Identifier(name)) + query
    try:
        with schema.connection.transaction():
            schema.connection.execute(sql.SQL("CREATE OR REPLACE ") + view)
    except errors.InvalidTableDefinition:
        # Another release, other outputs: only a new view can have other columns.
        readers = schema.do(
            "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' "
            "ELSE quote_ident(pg_get_userbyid(grantee)) END "
            "FROM pg_class, aclexplode(relacl) WHERE oid = %s::regclass "
            "AND privilege_type = 'SELECT' AND grantee <> relowner",
            sql.Identifier(schema.name, name).as_string(),
        ).fetchall()
        schema.do("DROP VIEW {schema}.{view}", view=sql.Identifier(name))
        schema.connection.execute(sql.SQL("CREATE ") + view)
        for (reader,) in readers:
            schema.do(
                "GRANT SELECT ON {schema}.{view} TO {reader}",
                view=sql.Identifier(name),
                reader=sql.SQL(reader),
            )


def name_items(schema: Schema, about: SinkVersion) -> None:
    """Write down what the positions of a version's rankings mean."""
    words = {form.name: form.items for form in rankings_of(about.manifest.forms)}
    for ranking, table in items_names(about).items():
        items = words[ranking]
        if schema.has(table):
            continue
        dtype = "string" if isinstance(items[0], str) else "int64"
        schema.do(
            "CREATE TABLE {schema}.{table} "
            "(at bigint PRIMARY KEY, item {dtype} NOT NULL)",
            table=sql.Identifier(table),
            dtype=sql_type(dtype),
        )
        copy_in = schema.sql(
            "COPY {schema}.{table} FROM STDIN", table=sql.Identifier(table)
        )
        with schema.connection.cursor().copy(copy_in) as copy:
            for at, item in enumerate(items):
                copy.write_row((at, item))


def select_numbers(schema: str, about: SinkVersion) -> sql.Composed:
    """Return the query of a version's columns, and of which version they are."""
    names = [about.key, *(name for name, _ in about.outputs)]
    columns: list[sql.Composable] = [sql.Identifier(name) for name in names]
    return _select(schema, about, [*columns, *_facts(about)], [])


def select_outputs(schema: str, about: SinkVersion) -> sql.Composed:
    """Return the query of a version's outputs, and of which version they are."""
    formed = {form.columns[0]: form for form in about.manifest.forms}
    inside = {name for form in formed.values() for name in form.columns}
    columns: list[sql.Composable] = [sql.Identifier("r", about.key)]
    joins: list[sql.Composable] = []
    for name, _ in about.outputs:
        if form := formed.get(name):
            columns += _formed(form)
            if isinstance(form, RankingForm):
                items = sql.Identifier(schema, items_names(about)[form.name])
                joins.append(_ranking(schema, form, items))
        elif name not in inside:
            columns.append(sql.Identifier("r", name))
    return _select(schema, about, [*columns, *_facts(about)], joins)


def _select(
    schema: str,
    about: SinkVersion,
    columns: list[sql.Composable],
    joins: list[sql.Composable],
) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} AS r {}").format(
        sql.SQL(", ").join(columns),
        sql.Identifier(schema, table_name(about.name)),
        sql.SQL(" ").join(joins),
    )


def _facts(about: SinkVersion) -> Iterator[sql.Composable]:
    facts = {
        SERVED_VERSION: sql.SQL("{}::text").format(about.name),
        "day": sql.SQL("{}::date").format(about.manifest.day),
        "model_name": sql.SQL("{}::text").format(about.manifest.model_name),
        "model_version": sql.SQL("{}::text").format(about.manifest.model_version),
    }
    for name, fact in facts.items():
        yield _as(fact, name)


def _formed(form: Form) -> Iterator[sql.Composable]:
    """An output that is more than a number, as columns of SQL's own types."""
    if isinstance(form, LabelForm):
        classes = sql.SQL(", ").join(map(sql.Literal, form.classes))
        place = sql.Identifier("r", form.name)
        label = sql.SQL("(ARRAY[{}]::text[])[{} + 1]").format(classes, place)
        yield _as(label, form.name)
    elif isinstance(form, VectorForm):
        yield _as(_array(form.columns, form.dtype), form.name)
    else:
        for column, name in (("items", form.name), ("scores", f"{form.name}_scores")):
            yield _as(sql.Identifier(form.name, column), name)


def _ranking(schema: str, form: RankingForm, items: sql.Identifier) -> sql.Composable:
    """The items of a row that may be shown, the best k of them, with their scores."""
    places, scores = form.parts
    return sql.SQL(
        "CROSS JOIN LATERAL (SELECT coalesce(array_agg(item ORDER BY n), '{{}}') AS items, "
        "coalesce(array_agg(score ORDER BY n), '{{}}') AS scores FROM ("
        "SELECT w.item, p.score, p.n "
        "FROM unnest({places}, {scores}) WITH ORDINALITY AS p(at, score, n) "
        "JOIN {items} AS w ON w.at = p.at "
        "WHERE NOT EXISTS (SELECT FROM {denylist} AS d WHERE d.item = w.item::text) "
        "ORDER BY p.n LIMIT {k}) AS shown) AS {name}"
    ).format(
        places=_array(places, "int64"),
        scores=_array(scores, "float32"),
        items=items,
        denylist=sql.Identifier(schema, DENYLIST),
        k=form.k,
        name=sql.Identifier(form.name),
    )


def _array(columns: list[str], dtype: str) -> sql.Composable:
    names = sql.SQL(", ").join(sql.Identifier("r", name) for name in columns)
    return sql.SQL("ARRAY[{}]::{}[]").format(names, sql_type(dtype))


def _as(column: sql.Composable, name: str) -> sql.Composable:
    return sql.SQL("{} AS {}").format(column, sql.Identifier(name))


def _plain(version: str) -> str:
    return version.replace("-", "_")
