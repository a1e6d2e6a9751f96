"""A setting becomes a device that is there, or an error that says what is not."""

import pytest
import torch

from batch_assets.errors import ConfigError, DeviceError
from batch_assets.scoring.device import AUTO_BATCH_ROWS, find_device

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


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_precision_is_kept_as_it_was_set(precision: str) -> None:
    assert find_device("cpu", precision).precision == precision


@pytest.mark.parametrize("precision", ["float64", "bf16", "", "int8"])
def test_a_precision_that_is_none_is_refused(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"precision .* got '{precision}'"):
        find_device("cpu", precision)
