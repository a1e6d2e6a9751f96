"""The drift gate: limits learned from the release, and numbers by hand."""

from pathlib import Path

import numpy as np
import pytest

from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import OutputSummary, PredictionsReceipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.models.reference import Reference, ks, psi, psi_noise
from batch_assets.models.release import Manifest
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.judges.drift import limits, prediction_drift
from batch_assets.spec import GateLimits
from batch_assets_tests.toys import make_contract

FLAT = (10_000,) * 4
EDGES = (0.25, 0.5, 0.75)


def part_of(counts: list[int], *, total: float = 0.0, name: str = "risk") -> Part:
    rows = sum(counts)
    outputs = {name: OutputSummary(rows, total, 0.0, 1.0, counts)}
    receipt = PredictionsReceipt(
        "2026-01-05", 0, 0, "ab", ControlTotal(rows, 0), outputs=outputs
    )
    return Part(Path("part.parquet"), 1, "0" * 64, receipt, ())


def of_parts(parts: list[Part], manifest: Manifest, limits: GateLimits | None = None):
    return DayEvidence(
        "2026-01-05",
        limits or GateLimits(),
        parts=lambda: parts,
        manifest=lambda: manifest,
    )


def judge(toy_release, counts: list[int], *, gates: GateLimits | None = None, daily=()):
    reference = Reference(edges=EDGES, counts=FLAT, daily_psi=daily)
    manifest = toy_release.manifest.model_copy(
        update={"reference": {"risk": reference}}
    )
    return prediction_drift(of_parts([part_of(counts)], manifest, gates))


# The reference's shares are a quarter each; limits of the YAML: warn .25, block 1.
USUAL = [11_000, 10_000, 10_000, 9_000]
ODD = [5_000, 5_000, 5_000, 25_000]
ALIEN = [100, 100, 100, 39_700]


@pytest.mark.parametrize(
    ("counts", "passed", "blocks"),
    [
        pytest.param(list(FLAT), True, False, id="equal"),
        pytest.param(USUAL, True, False, id="usual"),
        pytest.param(ODD, False, False, id="warns"),
        pytest.param(ALIEN, False, True, id="blocks"),
    ],
)
def test_a_night_is_judged_by_its_index(toy_release, counts, passed, blocks):
    verdict = judge(toy_release, counts)

    assert (verdict.passed, verdict.blocks) == (passed, blocks)
    assert verdict.numbers["risk_psi"] == psi(FLAT, counts)
    assert verdict.numbers["risk_ks"] == ks(FLAT, counts)
    assert verdict.numbers["risk_warns_above"] == 0.25
    assert verdict.numbers["risk_blocks_above"] == 1.0


def test_the_verdict_says_the_index_by_hand(toy_release):
    # Shares 1/8, 1/8, 1/8, 5/8 against 1/4: 3 * 1/8 ln 2 + 3/8 ln 2.5.
    index = 3 / 8 * np.log(2) + 3 / 8 * np.log(2.5)

    verdict = judge(toy_release, ODD)

    assert verdict.numbers["risk_psi"] == pytest.approx(index)
    assert verdict.numbers["risk_ks"] == pytest.approx(3 / 8)
    assert (
        verdict.why
        == f"PSI of 'risk' is {index:.3f}, warns above 0.250, blocks above 1.000"
    )


def test_the_limits_of_the_yaml_are_kept(toy_release):
    strict = GateLimits(warn_psi=0.002, max_psi=0.003)

    verdict = judge(toy_release, USUAL, gates=strict)

    assert verdict.blocks
    assert not verdict.passed


def test_what_chance_explains_neither_warns_nor_blocks(toy_release):
    strict = GateLimits(warn_psi=1e-6, max_psi=1e-6)
    few = [4, 2, 1, 5]
    many = [count * 1000 for count in few]

    assert judge(toy_release, few, gates=strict).passed
    assert not judge(toy_release, many, gates=strict).passed
    noise = psi_noise(FLAT, few)
    assert judge(toy_release, few).numbers["risk_warns_above"] == max(0.25, noise)


def test_a_release_whose_days_differ_much_takes_more(toy_release):
    restless = (0.2, 0.9, 0.4, 1.1, 0.3, 0.8, 0.5)

    assert not judge(toy_release, ODD).passed
    assert judge(toy_release, ODD, daily=restless).passed


def test_limits_are_two_and_three_deviations_of_the_logarithm():
    daily = (0.1, 0.2, 0.4, 0.8)  # equal steps of log 2: mean sqrt(.2 * .4)
    gates = GateLimits(warn_psi=0.01, max_psi=0.01)

    warn, block = limits(Reference(edges=(), counts=(1,), daily_psi=daily), gates)

    middle, step = 0.08**0.5, 2 ** (5 / 3) ** 0.5
    assert warn == pytest.approx(middle * step**2)
    assert block == pytest.approx(middle * step**3)


@pytest.mark.parametrize("daily", [(), (9.0,), (0.001, 0.002, 0.001)])
def test_the_limits_of_the_yaml_are_the_least(daily):
    reference = Reference(edges=(), counts=(1,), daily_psi=daily)

    assert limits(reference, GateLimits()) == (0.25, 1.0)


def test_a_day_is_the_sum_of_its_chunks(toy_release):
    reference = Reference(edges=EDGES, counts=FLAT)
    manifest = toy_release.manifest.model_copy(
        update={"reference": {"risk": reference}}
    )
    chunks = [part_of([4_000, 0, 0, 0], total=500.0), part_of([0, 3_000, 2_000, 1_000])]

    verdict = prediction_drift(of_parts(chunks, manifest))

    assert verdict.numbers["risk_psi"] == psi(FLAT, [4, 3, 2, 1])
    assert verdict.numbers["risk_mean"] == pytest.approx(500 / 10_000)


def test_a_day_without_rows_has_no_drift(toy_release):
    verdict = judge(toy_release, [0, 0, 0, 0])

    assert verdict.passed
    assert verdict.numbers == {}


def test_an_output_without_a_reference_is_not_judged_and_the_verdict_says_so(
    toy_release,
):
    for reference in ({}, {"risk": Reference(edges=EDGES, counts=FLAT)}):
        contract = make_contract(outputs=[{"name": "risk"}, {"name": "rank"}])
        manifest = toy_release.manifest.model_copy(
            update={"reference": reference, "contract": contract}
        )

        verdict = prediction_drift(of_parts([part_of(USUAL)], manifest))

        left = "rank" if reference else "risk, rank"
        assert verdict.passed
        assert verdict.facts == {"without_reference": left}
        assert "not judged, as the release has no reference for it" in verdict.why
        assert ("nothing to compare" in verdict.why) == (not reference)


def test_an_index_that_is_no_number_shuts_the_gate(toy_release):
    """Of a reference that nobody checked, such as one of before it was."""
    counts = (np.nan, 1, 1, 1)
    reference = Reference.model_construct(edges=EDGES, counts=counts, daily_psi=())
    manifest = toy_release.manifest.model_copy(
        update={"reference": {"risk": reference}}
    )

    verdict = prediction_drift(of_parts([part_of(list(FLAT))], manifest))

    assert verdict.blocks
    assert not verdict.passed
