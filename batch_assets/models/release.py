"""A release: an immutable model, named by the sha256 of its content.

A release is a folder with `release.json` and the files that it lists with their sizes
and sha256. The digest of `release.json` is the digest of the release, so one changed
bit anywhere is another release. Nothing here hands a byte to torch: `open_release`
re-hashes every file first, `formats` turns them into a module after that. A file may
change between the two, so each use of one hashes the very bytes that it takes. It knows
nothing of approvals.
"""

import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from batch_assets.errors import (
    ReleaseError,
    TamperedReleaseError,
    UnknownReleaseError,
)
from batch_assets.formats import RELEASE
from batch_assets.models.bins import Bins
from batch_assets.models.contract import Contract
from batch_assets.models.input_specs import Ids, Name, Sequence, Text
from batch_assets.models.output_specs import Label, Ranking
from batch_assets.models.post_specs import (
    PostProcessing,
    SideTable,
    Threshold,
    TopK,
)
from batch_assets.models.reference import Reference
from batch_assets.strict import StrictModel

MANIFEST = "release.json"
GOLDEN = "golden.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
# Beside these: who signed the digest. It is no part of what is signed.
SIGNATURE_FILE = "release.sig"
# So much of a file is in memory at once while it is copied, in bytes.
PIECE = 1 << 20


Takes = Literal["position", "name", "dict"]
TorchFormat = Literal["pt2", "safetensors", "torchscript", "transformers"]
Format = TorchFormat | Literal["onnx", "xgboost", "lightgbm", "catboost"]


def _says_nothing(value: object) -> bool:
    """Left out of what is written: a release keeps the digest of before it could be said."""
    return value in (None, "position", {})


class FileEntry(StrictModel):
    """The size in bytes and the sha256 of one file of a release."""

    size: int
    sha256: str


class ModelSpec(StrictModel):
    """How the model is stored.

    `pt2` is a `torch.export` archive; `safetensors` holds weights for the class that
    `import_path` names (`package.module:Class`), built with `arguments`; `torchscript`
    is the legacy format; `transformers` holds weights and the `config.json` of a
    transformer, with `arguments` that say what it gives. The others are those of other
    frameworks: an ONNX graph, and the trees of XGBoost, LightGBM and CatBoost. `torch` is
    the version that wrote it, and `versions` those of what it is not torch's. It `takes`
    its tensors in the order of the contract, by their names, or in one dict.
    """

    format: Format
    file: str
    torch: str
    import_path: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    takes: Takes = Field(default="position", exclude_if=_says_nothing)
    versions: dict[str, str] = Field(default_factory=dict, exclude_if=_says_nothing)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it is loaded from."""
        if self.format == "transformers":
            return self.file, CONFIG
        return (self.file,)


class Golden(StrictModel):
    """Rows with their outputs that the loaded model must reproduce.

    The tolerance is absolute and relative at once, per kind of device; one for a kind
    and a precision (`cpu bfloat16`) goes before.
    """

    file: str = GOLDEN
    rows: int
    tolerance: dict[str, float]

    def within(self, kind: str, precision: str = "float32") -> float:
        """Return how far an output may be off on a kind of device, in a precision."""
        return self.tolerance.get(f"{kind} {precision}", self.tolerance.get(kind, 0.0))


class Manifest(StrictModel):
    """What `release.json` holds.

    `reference` is how single days' outputs were distributed, and `profile` the bins of
    every feature, input and output, with their counts.
    """

    version: Annotated[int, AfterValidator(RELEASE.checked)] = RELEASE.version
    name: Name
    model: ModelSpec
    contract: Contract
    golden: Golden
    post: PostProcessing | None = Field(default=None, exclude_if=_says_nothing)
    reference: dict[str, Reference] = Field(default_factory=dict)
    profile: dict[str, Bins] = Field(default_factory=dict, exclude_if=_says_nothing)
    files: dict[str, FileEntry]
    about: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_what_it_holds(self) -> Self:
        texts = [one for one in self.contract.inputs if isinstance(one, Text)]
        loaded = {*self.model.files, self.golden.file, *([TOKENIZER] if texts else [])}
        # A file that is not listed is not hashed: it could be another tomorrow.
        if not loaded <= set(self.files) or any("/" in name for name in self.files):
            msg = f"loads {sorted(loaded)}, but lists {sorted(self.files)}"
            raise ValueError(msg)
        for one in texts:
            if one.tokenizer is None or one.pad is None:
                msg = f"text '{one.name}' names no tokenizer, or no padding"
                raise ValueError(msg)
        if self.post:
            _must_fit(self.post, self.contract)
        if unknown := set(self.reference) - set(self.contract.output_names):
            msg = f"reference of unknown outputs: {sorted(unknown)}"
            raise ValueError(msg)
        return self


def _must_fit(post: PostProcessing, contract: Contract) -> None:
    """Refuse stages that leave something else than the contract's outputs."""
    if lacking := sorted({c.name for c in contract.output_columns} - post.leaves):
        msg = f"no stage leaves {lacking}; there are {sorted(post.leaves)} in the end"
        raise ValueError(msg)
    outputs = {output.name: output for output in contract.outputs}
    listed = {
        column.name
        for one in contract.inputs
        if isinstance(one, Sequence)
        for column in one.columns
        if not column.is_float
    }
    if unknown := sorted(set(post.listed) - listed):
        msg = (
            f"a ranking is without {unknown}; the sequences of ids are {sorted(listed)}"
        )
        raise ValueError(msg)
    for table in post.tables:
        _must_fit_table(table, contract)
    if idle := sorted(set(post.table_names) - post.without):
        msg = f"no ranking is without the side tables {idle}"
        raise ValueError(msg)
    for stage in post.stages:
        output = outputs.get(stage.leaves[0])
        if (
            isinstance(stage, TopK)
            and isinstance(output, Ranking)
            and stage.k != output.width
        ):
            msg = (
                f"'{output.name}' keeps {output.width} items, k and spare, and its stage "
                f"takes {stage.k}"
            )
            raise ValueError(msg)
        if (
            isinstance(stage, Threshold)
            and isinstance(output, Label)
            and len(stage.at) + 1 != len(output.classes)
        ):
            msg = (
                f"'{output.name}' has {len(output.classes)} classes, which "
                f"{len(output.classes) - 1} limits divide; its stage has {len(stage.at)}"
            )
            raise ValueError(msg)


def _must_fit_table(table: SideTable, contract: Contract) -> None:
    if table.vocabulary not in contract.vocabularies:
        msg = f"the side table '{table.name}' is of no vocabulary '{table.vocabulary}'"
        raise ValueError(msg)
    ids = [one.name for one in contract.inputs if isinstance(one, Ids)]
    if table.by and table.by not in ids:
        msg = f"the side table '{table.name}' is by '{table.by}'; the ids are {ids}"
        raise ValueError(msg)


@dataclass(frozen=True)
class Release:
    """A release on disk whose bytes were those of its digest when it was opened."""

    folder: Path
    digest: str
    manifest: Manifest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def contract(self) -> Contract:
        return self.manifest.contract

    @property
    def side_tables(self) -> tuple[str, ...]:
        """The side tables that it needs of a day."""
        post = self.manifest.post
        return post.table_names if post else ()

    @property
    def short(self) -> str:
        """The first 12 characters of the digest, as people read it."""
        return self.digest[:12]

    def read(self, name: str) -> bytes:
        """Return a file of the release: these very bytes are those of its digest.

        Raises:
            TamperedReleaseError: they are not, or it is not there any more.
        """
        entry = self.manifest.files[name]
        with _opened(self.folder, name, entry.size) as file:
            # No more than it may have: what replaced it can be of any size.
            data = file.read(entry.size + 1)
        self._must_be(name, len(data), hashlib.sha256(data).hexdigest())
        return data

    @contextmanager
    def private_copy(self, *names: str) -> Iterator[Path]:
        """Give a folder with copies of files, hashed as they were copied.

        Libraries open files by their path, and could find others there than were hashed.
        The copies are this user's alone, and gone in the end.

        Raises:
            TamperedReleaseError: a file is not the one of the digest any more.
            ReleaseError: there is no room for the copies.
        """
        with tempfile.TemporaryDirectory(prefix="batch-assets-release-") as folder:
            for name in names:
                try:
                    self._copy(name, Path(folder) / name)
                except OSError as error:
                    msg = (
                        f"release {self.name} {self.short} was not loaded: {name} can't be "
                        f"copied to {tempfile.gettempdir()}, where nobody else changes "
                        f"it: {error.strerror}. Make room there, or name another folder "
                        "in TMPDIR."
                    )
                    raise ReleaseError(msg) from error
            yield Path(folder)

    def _copy(self, name: str, path: Path) -> None:
        entry, size, hashed = self.manifest.files[name], 0, hashlib.sha256()
        with _opened(self.folder, name, entry.size) as file, path.open("xb") as copy:
            while size <= entry.size and (piece := file.read(PIECE)):
                size += len(piece)
                hashed.update(piece)
                copy.write(piece)
        self._must_be(name, size, hashed.hexdigest())

    def _must_be(self, name: str, size: int, sha256: str) -> None:
        entry = self.manifest.files[name]
        if (size, sha256) != (entry.size, entry.sha256):
            why = (
                f"{name} is not the file any more that was verified: its bytes hash to "
                f"{sha256}, expected {entry.sha256}"
            )
            raise _tampered(self.folder, why)


def digest_of(folder: Path) -> str:
    """Return the digest of the release in a folder, of which nothing else is read.

    Raises:
        UnknownReleaseError: there is none.
        TamperedReleaseError: its manifest is no file.
    """
    return hashlib.sha256(_manifest_bytes(folder)).hexdigest()


def open_release(folder: Path, digest: str | None = None) -> Release:
    """Read a release and re-hash every file of it.

    Args:
        folder: the release's folder.
        digest: the digest that it must have; the folder's own if left out.

    Raises:
        UnknownReleaseError: there is no release in the folder.
        TamperedReleaseError: a file is missing, extra, truncated or altered.
        ReleaseError: its manifest is the one that was registered, but can't be used.
    """
    data = _manifest_bytes(folder)
    actual = hashlib.sha256(data).hexdigest()
    if digest is not None and actual != digest:
        raise _tampered(folder, f"{MANIFEST} hashes to {actual}, expected {digest}")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        for each in error.errors():
            if each["loc"] == ("version",):
                msg = f"the release at {folder} can't be used: {each['msg']}"
                raise ReleaseError(msg) from error
        if digest is not None:  # Its bytes are right, so nobody has another copy.
            msg = (
                f"the release at {folder} can't be used: {MANIFEST} says what is "
                f"refused: {error}. Nothing was loaded. Write it again with "
                "write_release, add it, and approve that."
            )
            raise ReleaseError(msg) from error
        raise _tampered(folder, f"{MANIFEST} can't be read: {error}") from error
    present = {p.name for p in folder.iterdir()} - {MANIFEST, SIGNATURE_FILE}
    if present != set(manifest.files):
        missing = sorted(set(manifest.files) - present)
        extra = sorted(present - set(manifest.files))
        raise _tampered(folder, f"files missing: {missing}, extra: {extra}")
    for name, entry in manifest.files.items():
        with _opened(folder, name, entry.size) as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        if sha != entry.sha256:
            raise _tampered(folder, f"{name} hashes to {sha}, expected {entry.sha256}")
    return Release(folder, actual, manifest)


def _manifest_bytes(folder: Path) -> bytes:
    if not (folder / MANIFEST).is_file():
        msg = f"no release at {folder}: {MANIFEST} is not there"
        raise UnknownReleaseError(msg)
    with _opened(folder, MANIFEST) as file:
        return file.read()


def _opened(folder: Path, name: str, size: int | None = None) -> io.BufferedReader:
    """Open a file that lies in the folder itself: no link out of it, and no pipe."""
    try:
        # A pipe without a writer would keep whoever opens it waiting.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.fdopen(os.open(folder / name, flags), "rb")
    except OSError as error:
        why = f"{name} is no file that can be read: {error.strerror}"
        raise _tampered(folder, why) from error
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        why = f"{name} is no file, but something else of that name"
    elif size is not None and found.st_size != size:
        why = f"{name} has {found.st_size} bytes, expected {size}"
    else:
        return file
    file.close()
    raise _tampered(folder, why)


def sha256_of(path: Path) -> str:
    """Hash a file; the sha256 as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tampered(folder: Path, why: str) -> TamperedReleaseError:
    return TamperedReleaseError(
        f"the release at {folder} is not what was registered: {why}. It was not "
        "loaded. Get it again from where it was made, and add it."
    )
