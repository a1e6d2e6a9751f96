"""Releases in a bucket: bytes by digest, and no act lost."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from batch_assets.errors import TamperedReleaseError
from batch_assets.models.registry import Registry
from batch_assets.storage import ObjectPath, put_file, storage_path
from batch_assets_tests.in_bucket import flip
from batch_assets_tests.toys import NAME

pytestmark = pytest.mark.slow


def test_a_release_is_copied_down_and_hashed_before_it_is_opened(
    root, registry, machine, toy_release
):
    machine("second")
    release = registry.resolve(NAME)
    assert release.digest == toy_release.digest
    assert release.folder.is_dir()

    # What lies on this machine is trusted by digest alone, and got again if it is not.
    path = release.folder / release.manifest.model.file
    path.chmod(0o644)
    path.write_bytes(b"something else")
    assert registry.resolve(NAME).digest == toy_release.digest


def test_an_altered_release_is_refused(root, registry, machine, toy_release):
    name = toy_release.manifest.model.file
    flip(root / "models" / NAME / toy_release.digest / name)
    machine("second")
    with pytest.raises(TamperedReleaseError, match=f"{name} hashes to"):
        registry.resolve(NAME)


def test_verifying_reads_the_store_and_not_a_copy(root, registry, toy_release):
    registry.reread(NAME, toy_release.digest)
    flip(root / "models" / NAME / toy_release.digest / "golden.safetensors")
    registry.resolve(NAME)
    with pytest.raises(TamperedReleaseError):
        registry.reread(NAME, toy_release.digest)


def test_a_release_that_was_half_put_is_not_there_and_is_put_whole(
    root, toy_release, monkeypatch
):
    registry, puts = Registry(root), []

    def broken_off(here: Path, place: ObjectPath) -> None:
        if puts:
            raise KeyboardInterrupt
        puts.append(place.name)
        put_file(here, place)

    with monkeypatch.context() as patched:
        patched.setattr("batch_assets.models.registry.put_file", broken_off)
        with pytest.raises(KeyboardInterrupt):
            registry.add(toy_release.folder)
    assert (root / "models" / NAME / toy_release.digest / puts[0]).exists()
    assert registry.digests(NAME) == []

    registry.add(toy_release.folder)
    assert registry.digests(NAME) == [toy_release.digest]


def approve_often(root: str, digest: str, by: str, cache: str, together: Any) -> None:
    os.environ["BATCH_ASSETS_CACHE"] = cache
    registry = Registry(storage_path(root))
    registry.resolve(NAME)
    together.wait()
    for number in range(10):
        registry.approve(NAME, digest, why=f"try {number}", by=by)


def test_machines_that_approve_at_once_lose_no_act(
    root, registry, toy_release, tmp_path
):
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    writers = [
        spawn.Process(
            target=approve_often,
            args=(str(root), toy_release.digest, by, str(tmp_path / by), together),
        )
        for by in ("eve", "grace")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    by = [act.by for act in registry.events(NAME)]
    assert sorted(by) == ["ada", *["eve"] * 10, *["grace"] * 10]
