"""A setting becomes a device that is there, or an error that says what is not."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from batch_assets.errors import ConfigError, DeviceError
from batch_assets.scoring.device import (
    AUTO_BATCH_ROWS,
    CPU_INSTRUCTIONS,
    find_device,
    must_compute,
    must_have_tf32,
)
from batch_assets.scoring.precision import set_float32_products
from batch_assets_tests.toys import needs_cpu_with

CUDA = torch.cuda.is_available()
without_cuda = pytest.mark.skipif(CUDA, reason="a CUDA device is there")


def test_cpu_is_always_there() -> None:
    device = find_device("cpu")

    assert (device.kind, device.index) == ("cpu", 0)
    assert device.torch == torch.device("cpu")
    assert device.name
    assert device.memory > 2**28


def test_auto_takes_cuda_only_where_there_is_any() -> None:
    assert find_device().kind == ("cuda" if CUDA else "cpu")


@without_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_device_that_is_not_there_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(DeviceError, match=rf"'{name}' was asked for.* sees 0 CUDA"):
        find_device(name)


@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:one", "cuda:²", "cuda0", "mps"]
)
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{name}'") as caught:
        find_device(name)

    assert not isinstance(caught.value, DeviceError)


@pytest.mark.parametrize(
    ("setting", "rows"), [("auto", AUTO_BATCH_ROWS["cpu"]), ("1", 1), ("65536", 65_536)]
)
def test_batch_rows_are_a_number_or_left_to_the_device(setting: str, rows: int) -> None:
    assert find_device("cpu", batch_rows=setting).batch_rows == rows


@pytest.mark.parametrize("setting", ["0", "-1", "1.5", "many", "", "²"])
def test_batch_rows_that_are_no_number_above_0_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="batch_rows"):
        find_device("cpu", batch_rows=setting)


@pytest.mark.parametrize(
    "precision",
    [
        "float32",
        *(
            pytest.param(name, marks=needs_cpu_with(name))
            for name in ("bfloat16", "float16")
        ),
    ],
)
def test_a_precision_is_kept_as_it_was_set(precision: str) -> None:
    assert find_device("cpu", precision).precision == precision


@pytest.mark.parametrize("precision", ["float64", "bf16", "", "int8"])
def test_a_precision_that_is_none_is_refused(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"precision .* got '{precision}'"):
        find_device("cpu", precision)


OTHER_FLAGS = {"avx512_f": True, "avx512_bf16": False, "l2_cache_size": 1_048_576}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_precision_without_instructions_for_it_is_an_error_that_names_them(
    precision: str,
) -> None:
    with pytest.raises(DeviceError, match=rf"'{precision}' .*Old CPU.* avx512_"):
        must_compute(precision, "Old CPU", OTHER_FLAGS)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_any_one_of_the_instructions_is_enough(precision: str) -> None:
    for flag in CPU_INSTRUCTIONS[precision]:
        must_compute(precision, "New CPU", OTHER_FLAGS | {flag: True})


def test_float32_needs_no_instructions_of_its_own() -> None:
    must_compute("float32", "Any CPU", {})


def test_the_flags_are_those_that_torch_tells_of_this_cpu() -> None:
    capabilities = torch.cpu.get_capabilities()

    for precision, flags in CPU_INSTRUCTIONS.items():
        if any(capabilities.get(flag) for flag in flags):
            assert find_device("cpu", precision).precision == precision
        else:
            with pytest.raises(DeviceError, match="no instructions for it"):
                find_device("cpu", precision)


def test_only_a_device_that_pads_has_its_batches_cut_to_the_chunk() -> None:
    cpu = find_device("cpu", batch_rows="1000")
    pads = replace(cpu, padded=True)

    assert cpu.for_chunks(300) == cpu
    assert pads.for_chunks(300).batch_rows == 300
    assert pads.for_chunks(3_000).batch_rows == 1_000


def test_compiled_code_sees_few_numbers_of_rows_and_little_of_nobody(
    tmp_path: Path,
) -> None:
    cpu = find_device("cpu", compiled=tmp_path)
    buckets = [cpu.bucket(rows, 3_000) for rows in range(1, 3_001)]

    assert len(set(buckets)) < 50
    assert all(r <= b <= min(1.25 * r, 3_000) for r, b in enumerate(buckets, 1))
    assert find_device("cpu").bucket(77, 3_000) == 77


def test_compiled_code_is_another_arithmetic(tmp_path: Path) -> None:
    eager, compiled = find_device("cpu"), find_device("cpu", compiled=tmp_path)

    assert eager.arithmetic == "cpu float32"
    assert compiled.arithmetic == "cpu float32 compiled"


def test_tf32_is_refused_on_a_cpu_which_would_compute_in_float32() -> None:
    with pytest.raises(DeviceError, match=r"'tf32' was asked for, but .* is a CPU"):
        find_device("cpu", "tf32")


@pytest.mark.parametrize(
    ("capability", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)]
)
def test_tf32_is_of_devices_from_ampere_on(
    capability: tuple[int, int], refused: bool
) -> None:
    with (
        pytest.raises(DeviceError, match=r"of capability 7\.5")
        if refused
        else nullcontext()
    ):
        must_have_tf32("tf32", "a device", capability)
    must_have_tf32("float32", "a device", capability)


@pytest.mark.parametrize("how", ["ieee", "tf32"])
def test_every_product_of_float32_is_of_one_kind(how: Any) -> None:
    """Left alone, torch has TF32 for convolutions, and not for products of matrices."""
    kinds = (
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,
        torch.backends.cudnn.rnn,
    )
    before = [kind.fp32_precision for kind in kinds]
    try:
        set_float32_products(how)

        assert {kind.fp32_precision for kind in kinds} == {how}
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


SET_AND_READ = """
import sys

import torch

from batch_assets.scoring.precision import set_float32_products

if sys.argv[1] == "old names":
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
for how in ("tf32", "ieee"):
    set_float32_products(how)
    found = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    found += [torch.backends.cuda.matmul.fp32_precision == "tf32"]
    for of in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
        found.append(of.fp32_precision == "tf32")
    assert found == [how == "tf32"] * 5, (how, found)
    torch.export.export(torch.nn.Linear(2, 1), (torch.ones(3, 2),))
print("exported")
"""


@pytest.mark.parametrize("before", ["nothing", "old names"])
def test_how_floats_are_multiplied_can_be_read_by_all_names(before: str) -> None:
    # In a process of its own: it is set for all of it.
    done = subprocess.run(
        [sys.executable, "-c", SET_AND_READ, before],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "exported\n", done.stderr
