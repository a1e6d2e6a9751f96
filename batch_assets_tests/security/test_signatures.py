"""Where a project trusts keys, nothing of a release is read that none of them has signed."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from batch_assets.errors import ConfigError, UnsignedError
from batch_assets.models import registry as registry_module
from batch_assets.models import release as release_module
from batch_assets.models.registry import Registry
from batch_assets.models.release import MANIFEST, SIGNATURE_FILE, Release, open_release
from batch_assets.models.signatures import (
    KEYS,
    PRIVATE_KEY,
    PURPOSE,
    sign_folder,
    trusted_keys,
)
from batch_assets.online.pipelines import Served
from batch_assets_tests.commands import invoke
from batch_assets_tests.releases_by_hand import make_by_hand
from batch_assets_tests.toys import NAME, write_toy_release_as

RAW = {name: base64.b64encode(name.encode() * 32).decode() for name in "ab"}


def public(name: str) -> str:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(RAW[name]))
    raw = key.public_key().public_bytes_raw()
    return f"ed25519:{base64.b64encode(raw).decode()}"


def sign(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRIVATE_KEY, RAW[name])
    assert sign_folder(folder, open_release(folder).digest) == public(name)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return write_toy_release_as("safetensors", tmp_path / "made")


@pytest.fixture
def trusting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose releases `a` signs."""
    monkeypatch.delenv(KEYS, raising=False)
    return project(tmp_path / "shop", [public("a")], monkeypatch)


def project(folder: Path, keys: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(exist_ok=True)
    text = f"[tool.dg]\n[tool.batch-assets]\nrelease_keys = {json.dumps(keys)}\n"
    (folder / "pyproject.toml").write_text(text)
    monkeypatch.chdir(folder)
    return folder


def test_a_signed_release_is_added_approved_and_used(
    trusting: Path, release: Release, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(release.folder, "a", monkeypatch)
    assert open_release(release.folder).digest == release.digest
    registry = Registry(root)
    registry.add(release.folder, NAME)
    registry.approve(NAME, release.digest, why="it is signed")
    assert registry.resolve(NAME).digest == release.digest
    assert registry.verify(NAME, release.short).digest == release.digest


def test_nobody_who_trusts_no_key_is_asked_for_a_signature(
    release: Release, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert trusted_keys() == ()
    assert Registry(root).add(release.folder).digest == release.digest


def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whoever reads the manifest or a file fails the test."""

    def read(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(registry_module, "open_release", read)
    monkeypatch.setattr(release_module.Manifest, "model_validate_json", read)
    monkeypatch.setattr(registry_module, "fetch", read)


@pytest.mark.parametrize("signer", [None, "b"], ids=["unsigned", "foreign"])
def test_what_no_trusted_key_has_signed_is_not_added(
    trusting: Path,
    release: Release,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    signer: str | None,
) -> None:
    if signer:
        sign(release.folder, signer, monkeypatch)
    nothing_is_read(monkeypatch)
    said = {
        None: f"it is not signed; expected a signature by {public('a')}",
        "b": f"it is signed by {public('b')}; trusted is {public('a')}",
    }[signer]
    with pytest.raises(UnsignedError) as refused:
        Registry(root).add(release.folder)
    assert said in str(refused.value)
    assert "Nothing of it was read" in str(refused.value)
    assert not (root / "models").exists()


def test_what_lay_there_before_keys_were_trusted_is_not_used(
    release: Release,
    registry: Registry,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="nobody trusts a key yet")
    project(tmp_path / "shop", [public("a")], monkeypatch)
    nothing_is_read(monkeypatch)
    for ask in (
        lambda: registry.resolve(NAME),
        lambda: registry.require(NAME, release.digest),
        lambda: registry.verify(NAME, release.digest),
        lambda: registry.reread(NAME, release.digest),
        lambda: registry.approve(NAME, release.digest, why="please"),
    ):
        with pytest.raises(UnsignedError, match="it is not signed"):
            ask()
    monkeypatch.undo()
    monkeypatch.setenv(KEYS, public("a"))
    # It is signed later, and added once more.
    sign(release.folder, "a", monkeypatch)
    Registry(root).add(release.folder)
    assert registry.resolve(NAME).digest == release.digest


def test_a_signature_is_of_one_release_and_of_no_other(
    trusting: Path, release: Release, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(release.folder, "a", monkeypatch)
    other = make_by_hand(
        release, root / "other", lambda m: m["about"].update(author="somebody else")
    )
    assert (other / SIGNATURE_FILE).is_file()
    nothing_is_read(monkeypatch)
    with pytest.raises(UnsignedError, match=r"is not of [0-9a-f]{64}: the release, or"):
        Registry(root).add(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(signature=s["signature"][:-4] + "AAA="),
        lambda s: s.update(signature="no base64!"),
        lambda s: s.update(signature=""),
        lambda s: s.update(key=public("a"), signature=s["signature"][4:]),
    ],
)
def test_an_altered_signature_is_none(
    trusting: Path,
    release: Release,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: object,
) -> None:
    sign(release.folder, "a", monkeypatch)
    path = release.folder / SIGNATURE_FILE
    record = json.loads(path.read_bytes())
    change(record["signatures"][0])  # type: ignore[operator]
    path.write_text(json.dumps(record))
    with pytest.raises(UnsignedError, match="altered"):
        Registry(root).add(release.folder)


def test_what_is_signed_for_another_purpose_is_no_signature(
    trusting: Path, release: Release, root: Path
) -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(RAW["a"]))
    for text in (release.digest.encode(), PURPOSE + b"0" * 64):
        signature = base64.b64encode(key.sign(text)).decode()
        record = {"signatures": [{"key": public("a"), "signature": signature}]}
        (release.folder / SIGNATURE_FILE).write_text(json.dumps(record))
        with pytest.raises(UnsignedError, match="is not of"):
            Registry(root).add(release.folder)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff", b'{"signatures": []}', b"[" * 100_000]
)
def test_what_is_no_record_of_signatures_is_refused(
    trusting: Path, release: Release, root: Path, data: bytes
) -> None:
    (release.folder / SIGNATURE_FILE).write_bytes(data)
    with pytest.raises(
        UnsignedError, match=f"{SIGNATURE_FILE} can't be read|by nobody"
    ):
        Registry(root).add(release.folder)


def test_signatures_of_a_newer_program_are_neither_read_nor_written_over(
    release: Release, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = release.folder / SIGNATURE_FILE
    path.write_text('{"version": 2, "signatures": [], "more": 1}')
    with pytest.raises(UnsignedError, match="a newer batch-assets wrote it"):
        sign(release.folder, "a", monkeypatch)
    assert '"more"' in path.read_text()
    monkeypatch.setenv(KEYS, public("a"))
    with pytest.raises(UnsignedError, match="a newer batch-assets wrote it"):
        Registry(root).add(release.folder)


def test_a_link_is_no_record_of_signatures(
    trusting: Path,
    release: Release,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign(release.folder, "a", monkeypatch)
    (release.folder / SIGNATURE_FILE).rename(tmp_path / "elsewhere")
    (release.folder / SIGNATURE_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsignedError, match="not signed"):
        Registry(root).add(release.folder)


def test_two_may_sign_while_one_key_takes_the_place_of_another(
    trusting: Path, release: Release, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(release.folder, "a", monkeypatch)
    again = shutil.copytree(release.folder, root / "again")
    sign(release.folder, "a", monkeypatch)
    assert (release.folder / SIGNATURE_FILE).read_bytes().count(b'"key"') == 1
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="signed by the first")
    (again / SIGNATURE_FILE).unlink()
    sign(again, "b", monkeypatch)
    monkeypatch.setenv(KEYS, f"{public('b')} {public('a')}")
    registry.add(again)
    for name in "ab":
        monkeypatch.setenv(KEYS, public(name))
        assert registry.resolve(NAME).digest == release.digest


def test_the_online_service_loads_no_release_that_is_not_signed(
    release: Release, registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the test", channel="online")
    monkeypatch.setenv(KEYS, public("a"))
    served = Served(root, NAME, None, None)  # type: ignore[arg-type]
    with pytest.raises(UnsignedError):
        served._load(NAME, release.digest)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        "a",
        ["a"],
        ["ed25519:"],
        ["ed25519:AAAA"],
        [1],
        {},
        ["rsa:" + "A" * 44],
        [""],
    ],
)
def test_what_names_no_keys_is_an_error_and_not_no_keys(
    tmp_path: Path, keys: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    text = str(keys).replace("'", '"')
    (tmp_path / "shop" / "pyproject.toml").write_text(
        f"[tool.dg]\n[tool.batch-assets]\nrelease_keys = {text}\n"
    )
    monkeypatch.chdir(tmp_path / "shop")
    with pytest.raises(ConfigError, match="release_keys"):
        trusted_keys()


@pytest.mark.parametrize("made", ["pem", "raw"])
def test_a_key_of_openssl_signs(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    key = RAW["a"]
    if made == "pem":
        command = ["openssl", "genpkey", "-algorithm", "ed25519"]
        key = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    monkeypatch.setenv(PRIVATE_KEY, key)
    monkeypatch.setenv(KEYS, sign_folder(release.folder, release.digest))
    assert Registry(tmp_path / "root").add(release.folder).digest == release.digest


@pytest.mark.parametrize("key", ["hush-hush", "aHVzaC1odXNo", "-----BEGIN hush-hush"])
def test_what_is_no_private_key_is_not_shown(
    release: Release, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(PRIVATE_KEY, key)
    with pytest.raises(ConfigError, match="openssl genpkey") as refused:
        sign_folder(release.folder, release.digest)
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is refused.value.__context__ is None


def test_a_release_is_signed_and_added_from_the_shell(
    trusting: Path, release: Release, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    monkeypatch.setenv(PRIVATE_KEY, RAW["a"])
    assert "not signed" in invoke(
        "release", "add", NAME, str(release.folder), fails=True
    )
    assert f"signed by {public('a')}" in invoke("release", "sign", str(release.folder))
    said = json.loads(invoke("release", "sign", str(release.folder), "--json"))
    assert said == {"name": NAME, "digest": release.digest, "key": public("a")}
    assert release.digest in invoke("release", "add", NAME, str(release.folder))


def test_a_release_that_is_not_whole_is_not_signed(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRIVATE_KEY, RAW["a"])
    (release.folder / "model.safetensors").write_bytes(b"another")
    assert "not what was registered" in invoke(
        "release", "sign", str(release.folder), fails=True
    )
    assert not (release.folder / SIGNATURE_FILE).exists()
    assert (release.folder / MANIFEST).exists()
