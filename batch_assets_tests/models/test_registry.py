"""The registry: which release a channel uses, and who said so."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest

from batch_assets.errors import (
    ReleaseError,
    RevokedError,
    TamperedReleaseError,
    UnapprovedError,
    UnknownReleaseError,
)
from batch_assets.models.registry import APPROVALS, Registry
from batch_assets.models.release import Release
from batch_assets.storage import exclusive
from batch_assets_tests.toys import NAME, write_toy_release

TOMORROW = datetime.now(UTC) + timedelta(days=1)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def second(registry: Registry, tmp_path: Path) -> Release:
    """Another release of the toy, added and not approved."""
    folder = tmp_path / "second" / "toy"
    return registry.add(write_toy_release(folder, about={"author": "another"}).folder)


def approvals_of(registry: Registry) -> Path:
    return registry.folder / NAME / APPROVALS


# NOTE: a process of its own that does not import torch starts in a tenth of the time.
APPROVE_TEN_TIMES = """
import sys
from pathlib import Path
from batch_assets.models.registry import Registry

root, name, digest, who = sys.argv[1:]
for n in range(10):
    why = f"reason {n} of {who} " * 2000
    Registry(Path(root)).approve(name, digest, why=why, by=who)
"""


def test_an_added_release_lies_under_its_digest(registry, toy_release):
    folder = registry.folder / NAME / toy_release.digest

    assert registry.names() == [NAME]
    assert registry.digests(NAME) == [toy_release.digest]
    assert registry.verify(NAME, toy_release.digest).folder == folder
    for path in folder.iterdir():
        assert path.read_bytes() == (toy_release.folder / path.name).read_bytes()
        assert path.stat().st_mode & 0o222 == 0


def test_adding_a_release_again_changes_nothing(registry, toy_release):
    before = sorted(p.stat().st_mtime_ns for p in registry.folder.rglob("*"))

    registry.add(toy_release.folder)

    assert sorted(p.stat().st_mtime_ns for p in registry.folder.rglob("*")) == before


def test_adding_a_release_again_notices_that_the_registered_one_was_altered(
    registry, toy_release
):
    path = registry.folder / NAME / toy_release.digest / "model.pt2"
    path.chmod(0o644)
    path.write_bytes(b"altered")

    with pytest.raises(TamperedReleaseError, match=r"model\.pt2"):
        registry.add(toy_release.folder)


def test_a_tampered_release_is_not_added(root, toy_release, tmp_path):
    copy = Path(shutil.copytree(toy_release.folder, tmp_path / "copy"))
    (copy / "model.pt2").write_bytes(b"altered")

    with pytest.raises(TamperedReleaseError):
        Registry(root).add(copy)

    assert Registry(root).names() == []


def test_a_release_of_another_name_is_not_added(root, toy_release):
    with pytest.raises(ReleaseError, match="holds a release of 'toy', not of 'flight'"):
        Registry(root).add(toy_release.folder, "flight")


def test_an_unknown_name_is_refused_with_those_that_are_known(registry):
    with pytest.raises(
        UnknownReleaseError, match="no model is named 'toi'.*registered: toy"
    ):
        registry.resolve("toi")


def test_an_empty_registry_knows_no_name(root):
    with pytest.raises(UnknownReleaseError, match="registered: none"):
        Registry(root).resolve(NAME)


def test_a_beginning_of_a_digest_is_enough(registry, toy_release):
    assert registry.full_digest(NAME, toy_release.digest[:8]) == toy_release.digest


@pytest.mark.parametrize(
    ("beginning", "count"), [("", 0), ("a", 2), ("ab", 2), ("b", 0)]
)
def test_an_unknown_or_ambiguous_digest_is_refused(root, beginning, count):
    for digest in ("ab" * 32, "ab" * 31 + "ff"):
        (root / "models" / NAME / digest).mkdir(parents=True)

    with pytest.raises(
        UnknownReleaseError, match=f"'{beginning}' names {count} releases.*expected 1"
    ):
        Registry(root).full_digest(NAME, beginning)


def test_an_approved_release_is_resolved(registry, toy_release):
    assert registry.resolve(NAME).digest == toy_release.digest
    assert registry.require(NAME, toy_release.short).digest == toy_release.digest


def test_an_unapproved_release_is_refused(root, toy_release):
    registry = Registry(root)
    registry.add(toy_release.folder)

    with pytest.raises(UnapprovedError, match="no release of 'toy' is approved for ba"):
        registry.resolve(NAME)
    with pytest.raises(UnapprovedError, match="is not approved for batch"):
        registry.require(NAME, toy_release.digest)


def test_an_approval_is_for_one_channel(registry, toy_release):
    with pytest.raises(UnapprovedError, match="approved for online"):
        registry.resolve(NAME, "online")
    with pytest.raises(UnapprovedError, match="approved for online"):
        registry.require(NAME, toy_release.digest, "online")


def test_a_newer_approval_for_another_channel_changes_nothing(
    registry, toy_release, second
):
    registry.approve(NAME, second.digest, why="fast", channel="online")

    assert registry.resolve(NAME).digest == toy_release.digest
    assert registry.resolve(NAME, "online").digest == second.digest


def test_a_revocation_is_for_one_channel(registry, toy_release):
    registry.approve(NAME, toy_release.digest, why="fast", channel="online")

    registry.revoke(NAME, toy_release.digest, why="slow", channel="online")

    assert registry.resolve(NAME).digest == toy_release.digest
    with pytest.raises(RevokedError):
        registry.resolve(NAME, "online")


def test_an_approval_records_who_and_why(registry, toy_release):
    act = registry.approve(
        NAME, toy_release.short, why="it is good", by="grace", until=TOMORROW
    )

    assert registry.events(NAME)[-1] == act
    assert (act.act, act.digest, act.channel) == (
        "approve",
        toy_release.digest,
        "batch",
    )
    assert (act.by, act.why, act.until) == ("grace", "it is good", TOMORROW)


@pytest.mark.parametrize("why", ["", "  \n"])
@pytest.mark.parametrize("act", ["approve", "revoke"])
def test_an_act_takes_a_reason(registry, toy_release, act, why):
    with pytest.raises(ReleaseError, match=f"to {act} a release takes a reason"):
        getattr(registry, act)(NAME, toy_release.digest, why=why)

    assert len(registry.events(NAME)) == 1


def test_acts_are_only_ever_appended(registry, toy_release):
    before = approvals_of(registry).read_bytes()

    registry.revoke(NAME, toy_release.digest, why="it is bad")

    assert approvals_of(registry).read_bytes().startswith(before)
    assert [act.act for act in registry.events(NAME)] == ["approve", "revoke"]


def test_the_release_approved_last_wins(registry, toy_release, second):
    registry.approve(NAME, second.digest, why="newer")
    assert registry.resolve(NAME).digest == second.digest

    registry.approve(NAME, toy_release.digest, why="back to the old one")
    assert registry.resolve(NAME).digest == toy_release.digest
    assert registry.require(NAME, second.digest).digest == second.digest


def test_a_revoked_release_is_refused_with_who_and_why(registry, toy_release):
    registry.revoke(NAME, toy_release.digest, why="it hallucinates", by="grace")

    for ask in (registry.resolve, lambda n: registry.require(n, toy_release.digest)):
        with pytest.raises(RevokedError, match=r"by grace at .* UTC: it hallucinates"):
            ask(NAME)


def test_a_revoked_release_is_not_replaced_by_an_older_one(registry, second):
    registry.approve(NAME, second.digest, why="newer")
    registry.revoke(NAME, second.digest, why="worse")

    with pytest.raises(RevokedError, match=f"{second.short} was revoked"):
        registry.resolve(NAME)


def test_revoking_an_older_release_leaves_the_newest(registry, toy_release, second):
    registry.approve(NAME, second.digest, why="newer")
    registry.revoke(NAME, toy_release.digest, why="old")

    assert registry.resolve(NAME).digest == second.digest
    with pytest.raises(RevokedError):
        registry.require(NAME, toy_release.digest)


def test_a_revoked_release_can_be_approved_again(registry, toy_release):
    registry.revoke(NAME, toy_release.digest, why="a doubt")
    registry.approve(NAME, toy_release.digest, why="no doubt")

    assert registry.resolve(NAME).digest == toy_release.digest


def test_an_approval_runs_out(registry, toy_release):
    registry.approve(NAME, toy_release.digest, why="a trial", until=TOMORROW)
    assert registry.resolve(NAME).digest == toy_release.digest

    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    registry.approve(NAME, toy_release.digest, why="a trial", by="eve", until=soon)
    time.sleep(0.3)
    with pytest.raises(RevokedError, match="by eve ran out at"):
        registry.resolve(NAME)


@pytest.mark.parametrize("ask", ["resolve", "require", "verify", "approve"])
def test_the_bytes_are_hashed_again_each_time(registry, toy_release, ask):
    path = registry.folder / NAME / toy_release.digest / "model.pt2"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    calls = {
        "resolve": lambda: registry.resolve(NAME),
        "require": lambda: registry.require(NAME, toy_release.digest),
        "verify": lambda: registry.verify(NAME, toy_release.digest),
        "approve": lambda: registry.approve(NAME, toy_release.digest, why="good"),
    }

    with pytest.raises(TamperedReleaseError, match=r"model\.pt2 hashes to"):
        calls[ask]()


@pytest.mark.parametrize("ask", ["resolve", "require", "verify"])
def test_a_release_under_anothers_digest_is_refused(registry, toy_release, second, ask):
    target = registry.folder / NAME / toy_release.digest
    shutil.rmtree(target)
    shutil.copytree(second.folder, target)
    arguments = [NAME] if ask == "resolve" else [NAME, toy_release.digest]

    with pytest.raises(
        TamperedReleaseError, match=f"hashes to {second.digest}, expected"
    ):
        getattr(registry, ask)(*arguments)


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"at": "2026-01-05T00:00:00Z", "act": "approve"',
        '{"at": "2026-01-05T00:00:00", "act": "approve", "digest": "a", '
        '"channel": "batch", "by": "eve", "why": "no timezone"}',
    ],
    ids=["empty object", "torn", "naive time"],
)
def test_a_line_that_cannot_be_read_makes_no_release_trusted(registry, line):
    with approvals_of(registry).open("a", encoding="utf-8") as file:
        file.write(line + "\n")

    with pytest.raises(TamperedReleaseError, match="line 2 can't be read"):
        registry.resolve(NAME)


def test_each_act_is_one_line_of_json(registry, toy_release):
    registry.revoke(NAME, toy_release.digest, why="one\nreason\u2028of three lines")

    lines = approvals_of(registry).read_bytes().split(b"\n")
    assert [json.loads(line)["act"] for line in lines[:-1]] == ["approve", "revoke"]
    assert registry.events(NAME)[-1].why == "one\nreason\u2028of three lines"


def test_acts_of_processes_do_not_tear_each_other(registry, root, toy_release):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", APPROVE_TEN_TIMES, root, NAME, toy_release.digest, n]
        )
        for n in ("eve", "grace", "mary")
    ]

    codes = [worker.wait(timeout=120) for worker in workers]

    assert codes == [0, 0, 0]
    by = Counter(act.by for act in registry.events(NAME))
    assert by == {"ada": 1, "eve": 10, "grace": 10, "mary": 10}


def test_an_act_waits_for_the_one_that_is_being_written(registry, toy_release):
    revoke = Thread(
        target=registry.revoke, args=(NAME, toy_release.digest), kwargs={"why": "bad"}
    )

    with exclusive(approvals_of(registry).parent):
        revoke.start()
        revoke.join(timeout=0.3)
        assert len(registry.events(NAME)) == 1
    revoke.join(timeout=60)

    assert len(registry.events(NAME)) == 2


def test_nothing_is_added_to_a_torn_line(registry, root, toy_release):
    path = root / "models" / NAME / "approvals.jsonl"
    torn = path.read_text(encoding="utf-8")[:-20]
    path.write_text(torn, encoding="utf-8")

    with pytest.raises(TamperedReleaseError, match="is torn"):
        registry.revoke(NAME, toy_release.digest, why="too late")

    assert path.read_text(encoding="utf-8") == torn


def test_a_blank_line_says_nothing(registry, toy_release):
    with approvals_of(registry).open("a", encoding="utf-8") as file:
        file.write("\n")

    assert registry.resolve(NAME).digest == toy_release.digest


@pytest.mark.parametrize("until", [YESTERDAY, TOMORROW.replace(tzinfo=None)])
def test_an_approval_that_could_not_be_used_is_refused(registry, toy_release, until):
    with pytest.raises(ReleaseError, match="runs out later than now, with a timezone"):
        registry.approve(NAME, toy_release.digest, why="a trial", until=until)

    assert len(registry.events(NAME)) == 1
