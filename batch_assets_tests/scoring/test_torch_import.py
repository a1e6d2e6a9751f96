"""A signal that ends a night waits until torch is imported."""

import signal
import subprocess
import sys

import pytest

from batch_assets.scoring.torch_import import signals_held
from batch_assets_tests.projects import FLIGHTS

ENDED_MEANWHILE = """
import os, signal, sys, threading, time
from batch_assets.scoring.torch_import import import_torch

class EndedError(Exception): pass

def end(*_): raise EndedError

def soon():
    while "torch.nn" not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, end)
threading.Thread(target=soon, daemon=True).start()
try:
    import_torch()
except EndedError:
    import torch
    print("ended", torch.nn.Linear(2, 1), signal.getsignal(signal.SIGTERM) is end)
"""


def test_a_signal_while_torch_is_imported_comes_when_it_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED_MEANWHILE],
        cwd=FLIGHTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "ended",
        "Linear(in_features=2,",
        "out_features=1,",
        "bias=True)",
        "True",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_held_signals_come_once_each_when_it_is_over(
    number: signal.Signals,
) -> None:
    came: list[int] = []
    before = signal.signal(number, lambda number, _: came.append(number))
    try:
        with signals_held():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert came == []
        assert came == [number]
        signal.raise_signal(number)
        assert came == [number, number]
    finally:
        signal.signal(number, before)
