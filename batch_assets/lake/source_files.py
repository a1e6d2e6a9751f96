"""The files that a source reads: which they are, what they hold, and whether they stay.

A file is known by its bytes and not by its size and time, which can be put back. It
knows neither queries nor tables.
"""

import glob
import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import SourceError
from batch_assets.lake.places import pattern_within, within

# Few enough that a disk with a head is not sent to and fro.
HASHED_AT_ONCE = 4

Signature = list[tuple[str, int, int, int, int]]


def matching(pattern: str, project: Path) -> list[Path]:
    """List the files of a path or glob, sorted.

    Args:
        pattern: relative to the project, or absolute.
        project: the folder of the project; what its own name looks like is no pattern.

    Raises:
        SourceError: there is none, or one lies where no YAML may lead.
    """
    pattern_within(pattern, project)
    # A file of that very name is meant, even if the name reads as a pattern.
    if (project / pattern).is_file():
        return [within(project / pattern, project, pattern)]
    matches = [
        project / name for name in glob.glob(pattern, root_dir=project, recursive=True)
    ]
    paths = sorted(within(path, project, pattern) for path in matches if path.is_file())
    if not paths:
        others = f"; {len(matches)} folders do" if matches else ""
        msg = f"no file matches {project / pattern}{others}"
        raise SourceError(msg)
    return paths


def digests(paths: list[Path], project: Path) -> list[list[str]]:
    """Return what tells files from any that replace them: each name and its sha256.

    A name is relative to the project, so that a project that is moved has the same.

    Raises:
        SourceError: a file can't be read.
    """
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        return [
            [_name(path, project), digest]
            for path, digest in zip(paths, pool.map(_sha256, paths), strict=True)
        ]


def signature(paths: list[Path]) -> Signature:
    """Return what changes when a file is written to, without reading it.

    The time of the last change of its entry is among it, which no program can set.

    Raises:
        SourceError: a file is gone.
    """
    states = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise _gone(path, error) from error
        times = stat.st_mtime_ns, stat.st_ctime_ns
        states.append((str(path), stat.st_ino, stat.st_size, *times))
    return states


def parquet_schemas(paths: list[Path]) -> list[pa.Schema]:
    """Read the columns of each file, in plain types.

    Raises:
        SourceError: a file is not Parquet.
    """
    schemas = []
    for path in paths:
        try:
            schema = pq.read_schema(path).remove_metadata()
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, "Parquet", error) from error
        schemas.append(pa.schema([pa.field(f.name, plain(f.type)) for f in schema]))
    return schemas


def one_schema(paths: list[Path], schemas: list[pa.Schema]) -> pa.Schema:
    """Return the columns that all the files have, in the first one's order.

    A column of nothing but nulls, which a writer gave no type, has the others' type.

    Raises:
        SourceError: a file has other columns, or one of another type.
    """
    types: dict[str, tuple[pa.DataType, Path]] = {}
    for path, schema in zip(paths, schemas, strict=True):
        counts = Counter(schema.names)
        if twice := sorted(name for name, times in counts.items() if times > 1):
            msg = f"{path} has two columns named '{twice[0]}'; give each its own name"
            raise SourceError(msg)
        if set(counts) != set(schemas[0].names):
            raise _differs(path, schema, paths[0], schemas[0])
        for field in schema:
            dtype, first = types.setdefault(field.name, (field.type, path))
            if pa.types.is_null(dtype):
                types[field.name] = field.type, path
            elif not pa.types.is_null(field.type) and field.type != dtype:
                expected = pa.schema([pa.field(field.name, dtype)])
                raise _differs(path, pa.schema([field]), first, expected)
    return pa.schema([pa.field(n, types[n][0]) for n in schemas[0].names])


def parquet_batches(
    paths: list[Path], schema: pa.Schema, rows: int
) -> Iterator[pa.RecordBatch]:
    """Read the files' rows, one row group at a time.

    Args:
        paths: files with the columns of `schema`, in any order.
        schema: as `one_schema` tells it.
        rows: of a batch, at most.

    Raises:
        SourceError: a file can't be read.
    """
    for path in paths:
        try:
            # Buffered ahead, a file would be held whole until its last row.
            with pq.ParquetFile(
                path, page_checksum_verification=True, pre_buffer=False
            ) as file:
                for batch in file.iter_batches(batch_size=rows):
                    yield batch.select(schema.names).cast(schema)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, "Parquet", error) from error


def plain(dtype: pa.DataType) -> pa.DataType:
    """Return a type without the ways in which a writer may have laid it out."""
    if pa.types.is_dictionary(dtype):
        return plain(dtype.value_type)
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype):
        return pa.binary()
    return dtype


def _name(path: Path, project: Path) -> str:
    inside = path.is_relative_to(project)
    return (path.relative_to(project) if inside else path).as_posix()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _gone(path, error) from error


def _gone(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{path} can't be read: {error.strerror}. Nothing was committed."
    )


def unreadable(path: Path, form: str, error: Exception | str) -> SourceError:
    """Return the error of a file that is not what its source says.

    Args:
        path: of the file.
        form: what it was read as.
        error: what is wrong with it.
    """
    return SourceError(
        f"{path} can't be read as {form}: {str(error).strip().rstrip('.')}. Nothing "
        "was committed; replace the file and run the day again."
    )


def _differs(
    path: Path, schema: pa.Schema, first: Path, expected: pa.Schema
) -> SourceError:
    def only(these: pa.Schema, others: pa.Schema) -> str:
        known = {(f.name, f.type) for f in others}
        fields = [f for f in these if (f.name, f.type) not in known]
        return ", ".join(f"'{f.name}' {f.type}" for f in fields) or "nothing more"

    return SourceError(
        f"{path} has other columns than {first}: got {only(schema, expected)}; expected "
        f"{only(expected, schema)}"
    )
