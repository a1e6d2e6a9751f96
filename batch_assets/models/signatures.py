"""Who made a release: signatures of its digest, by keys that a project trusts.

    <root>/models/<name>/<sha256>/release.sig    beside release.json

A signature is an Ed25519 one, of the digest alone: it is checked before a byte of the
release is read. It is asked for where the project names keys, and nowhere else:

    [tool.batch-assets]
    release_keys = ["ed25519:q3Hb…="]

or the environment variable `BATCH_ASSETS_RELEASE_KEYS`, with blanks between, which goes
before it. This is the only file that imports cryptography. It knows no registry.
"""

import base64
import binascii
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError

from batch_assets.environment import secret
from batch_assets.errors import ConfigError, UnsignedError
from batch_assets.formats import SIGNATURES
from batch_assets.models.release import SIGNATURE_FILE
from batch_assets.root import project_folder
from batch_assets.storage import (
    StoragePath,
    exclusive,
    read_versioned,
    replace_if_unchanged,
    write_whole,
)
from batch_assets.strict import StrictModel

KEYS = "BATCH_ASSETS_RELEASE_KEYS"
PRIVATE_KEY = "BATCH_ASSETS_SIGNING_KEY"
ED25519 = "ed25519:"
# What is signed begins with this, so that the signature of something else is none.
PURPOSE = b"batch-assets release 1\n"


class Signature(StrictModel):
    """A public key, as `ed25519:` and base64, and its signature, in base64."""

    key: str
    signature: str


class Signatures(StrictModel):
    """What `release.sig` holds: of each key one signature of the release's digest."""

    version: Annotated[int, AfterValidator(SIGNATURES.checked)] = SIGNATURES.version
    signatures: tuple[Signature, ...]


def trusted_keys() -> tuple[str, ...]:
    """Return the public keys that releases must be signed by; none, if nobody asks for it.

    Raises:
        ConfigError: what names them is no list of keys.
    """
    if named := os.environ.get(KEYS, "").split():
        return _keys(named, KEYS)
    settings = project_folder() / "pyproject.toml"
    if not settings.is_file():
        return ()
    try:
        tool = tomllib.loads(settings.read_text(encoding="utf-8")).get("tool", {})
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"release_keys can't be looked for: {settings} is no TOML: {error}"
        raise ConfigError(msg) from error
    said = tool.get("batch-assets", {}).get("release_keys")
    return () if said is None else _keys(said, f"release_keys in {settings}")


def must_be_signed(
    digest: str, found: bytes | None, keys: Sequence[str], where: str
) -> None:
    """Refuse a release that no trusted key has signed.

    Args:
        digest: of the release.
        found: its signatures as they lie on disk, None if there are none.
        keys: that are trusted.
        where: the release lies, for the error.

    Raises:
        UnsignedError: it is not signed, or by others, or the signature is of another one.
        ConfigError: the package cryptography is not there.
    """
    theirs = ", ".join(keys)
    if found is None:
        raise _refused(where, f"it is not signed; expected a signature by {theirs}")
    signatures = _read(found, where)
    by = [one for one in signatures if one.key in keys]
    if not by:
        others = ", ".join(one.key for one in signatures) or "nobody"
        raise _refused(where, f"it is signed by {others}; trusted is {theirs}")
    if not any(_is_of(one, digest) for one in by):
        why = (
            f"the signature of {by[0].key} is not of {digest}: the release, or the "
            "signature, was altered or is of another one"
        )
        raise _refused(where, why)


def must_be_signed_if_asked(path: StoragePath) -> None:
    """Refuse a release in its folder of the registry, where the project trusts keys.

    Raises:
        UnsignedError, ConfigError: as `must_be_signed`.
    """
    if keys := trusted_keys():
        found = read_versioned(path / SIGNATURE_FILE).data
        must_be_signed(path.name, found, keys, str(path))


def keep_signatures(path: StoragePath, more: bytes | None) -> None:
    """Put signatures to those of a release in its folder of the registry."""
    with exclusive(path.parent):
        while True:
            seen = read_versioned(path / SIGNATURE_FILE)
            data = merged(seen.data, more, str(path))
            if data is None or data == seen.data:
                return
            if replace_if_unchanged(path / SIGNATURE_FILE, data, seen=seen):
                return


def signed(digest: str, private: str) -> Signature:
    """Return a private key's signature of a release.

    Args:
        digest: of the release.
        private: an Ed25519 key in PEM, or the 32 bytes of one in base64.

    Raises:
        ConfigError: it is no such key; not a word of it is shown.
    """
    key = _private(private)
    raw = key.public_key().public_bytes_raw()
    public = ED25519 + base64.b64encode(raw).decode()
    signature = base64.b64encode(key.sign(PURPOSE + digest.encode())).decode()
    return Signature(key=public, signature=signature)


def merged(found: bytes | None, other: bytes | None, where: str) -> bytes | None:
    """Return the signatures of two copies of one release together, None of none.

    A key has one at most, and that of the other copy goes before.

    Raises:
        UnsignedError: one of the two can't be read; it may say more to a newer program.
    """
    if other is None or found == other:
        return found
    there = _read(found, where) if found else ()
    return _written([*there, *_read(other, where)])


def _written(signatures: Sequence[Signature]) -> bytes:
    by_key = {one.key: one for one in signatures}
    ordered = tuple(by_key[key] for key in sorted(by_key))
    return Signatures(signatures=ordered).model_dump_json(indent=2).encode() + b"\n"


def _read(data: bytes, where: str) -> tuple[Signature, ...]:
    try:
        return Signatures.model_validate_json(data).signatures
    except ValidationError as error:
        why = f"its {SIGNATURE_FILE} can't be read: {error.errors()[0]['msg']}"
        raise _refused(where, why) from error


def sign_folder(folder: Path, digest: str) -> str:
    """Sign the release in a folder by the key in the environment; return its public one.

    Raises:
        ConfigError: the variable is not set, or holds no Ed25519 key.
        UnsignedError: the signatures that are there can't be read.
    """
    own = signed(digest, secret(PRIVATE_KEY, "a signature", ", an Ed25519 key in PEM"))
    data = merged(in_folder(folder), _written([own]), str(folder))
    write_whole(folder / SIGNATURE_FILE, data or b"")
    return own.key


def in_folder(folder: Path) -> bytes | None:
    """Return the signatures in a folder of this machine, None if there are none."""
    path = folder / SIGNATURE_FILE
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


def _is_of(one: Signature, digest: str) -> bool:
    ed25519 = _cryptography()
    key = ed25519.Ed25519PublicKey.from_public_bytes(_bytes(one.key))
    try:
        signature = base64.b64decode(one.signature, validate=True)
        key.verify(signature, PURPOSE + digest.encode())
    # It has one error of its own, and others for what is no signature at all.
    except Exception:  # noqa: BLE001
        return False
    return True


def _private(text: str) -> Any:
    ed25519 = _cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if "-----BEGIN" not in text:
            raw = base64.b64decode(text.strip(), validate=True)
            return ed25519.Ed25519PrivateKey.from_private_bytes(raw)
        key = load_pem_private_key(text.encode(), password=None)
    # Not from the error, which may show some of it.
    except Exception:  # noqa: BLE001
        key = None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    msg = (
        f"{PRIVATE_KEY} holds no Ed25519 key that can be used, expected one in PEM "
        "without a password: openssl genpkey -algorithm ed25519"
    )
    raise ConfigError(msg)


def _keys(named: Any, where: str) -> tuple[str, ...]:
    is_list = isinstance(named, list) and all(isinstance(one, str) for one in named)
    if not is_list or not named:
        msg = (
            f"{where} is no list of public keys, got {named!r}. Take what `batch-assets "
            "release sign` prints, or leave it out if no release has to be signed"
        )
        raise ConfigError(msg)
    for one in named:
        if not one.startswith(ED25519) or len(_bytes(one)) != 32:
            msg = (
                f"{where} names '{one}', expected '{ED25519}' and the 32 bytes of a "
                "public key in base64, as `batch-assets release sign` prints it"
            )
            raise ConfigError(msg)
    return tuple(named)


def _bytes(key: str) -> bytes:
    try:
        return base64.b64decode(key.removeprefix(ED25519), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _cryptography() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        msg = (
            "signatures need a package that is not installed: pip install "
            "'batch-assets[signing]'"
        )
        raise ConfigError(msg) from error
    return ed25519


def _refused(where: str, why: str) -> UnsignedError:
    return UnsignedError(
        f"the release at {where} may not be used: {why}. Nothing of it was read. Let who "
        "made it sign it (batch-assets release sign FOLDER), and add it again"
    )
