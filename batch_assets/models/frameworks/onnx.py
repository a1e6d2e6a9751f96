"""ONNX: graphs that onnxruntime runs, on the CPU or on CUDA. It knows no approvals.

What goes into a graph, and which of its outputs count, is in `onnx_inputs` and
`onnx_outputs`.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batch_assets.errors import DeviceError, ReleaseError
from batch_assets.models.frameworks.base import THREADS, Declared, Foreign, needs
from batch_assets.models.frameworks.onnx_inputs import inputs_of
from batch_assets.models.frameworks.onnx_outputs import outputs_of

# Of its own log, nothing: it warns of what it does not optimise, and raises its errors.
FATAL = 4
CPU = torch.device("cpu")
CUDA = "CUDAExecutionProvider"
# What an .onnx file may hold at most; Protocol Buffers have no larger message.
MOST_BYTES = 2**31 - 1


def own(model: Any, declared: Declared) -> Foreign:
    """Return a graph, or the file of one, as onnxruntime runs it."""
    with needs("onnx"):
        import onnxruntime as runtime

    return _Graph(_session(runtime, _bytes(model), CPU), declared)


def save(model: Any, path: Path, declared: Declared) -> None:
    """Write the graph with all of its weights into one file."""
    path.write_bytes(_bytes(model))


def load(path: Path, declared: Declared, device: torch.device) -> Foreign:
    """Read a graph for many threads, each of which computes alone."""
    with needs("onnx"):
        import onnxruntime as runtime
    # By its bytes and in its folder, so that no weight comes from a file beside it.
    return _Graph(_session(runtime, str(path), device), declared, device)


def read(path: Path) -> Any:
    """Read a graph whole, with the weights that lie in files beside it."""
    with needs("onnx"):
        import onnx
    return onnx.load(str(path))


def versions() -> dict[str, str]:
    with needs("onnx"):
        import onnx
        import onnxruntime as runtime
    return {"onnx": onnx.__version__, "onnxruntime": runtime.__version__}


def _bytes(model: Any) -> bytes:
    """A graph as a file holds it, with the weights that lie beside it in others."""
    with needs("onnx"):
        import onnx
    graph = onnx.load(model) if isinstance(model, Path) else model
    size = graph.ByteSize()
    if size > MOST_BYTES:
        msg = (
            f"the ONNX graph has {size:,} bytes, and a file of one holds {MOST_BYTES:,}: "
            "store its weights as float16, or give the model in torch"
        )
        raise ReleaseError(msg)
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


def _session(runtime: Any, model: str | bytes, device: torch.device) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = THREADS
    options.log_severity_level = FATAL
    if device.type == "cpu":
        return runtime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
    providers = [(CUDA, {"device_id": device.index or 0})]
    if CUDA in runtime.get_available_providers():
        with warnings.catch_warnings():
            # What it can't do it warns of, and does on the CPU: that is seen below.
            warnings.simplefilter("ignore")
            session = runtime.InferenceSession(model, options, providers=providers)
        if CUDA in session.get_providers():
            return session
    msg = (
        f"device '{device}' was asked for, but onnxruntime {runtime.__version__} here "
        f"runs on {runtime.get_available_providers()}. Nothing was scored. Install "
        "onnxruntime-gpu in its place, or set device to 'cpu'."
    )
    raise DeviceError(msg)


class _Graph(Foreign):
    """A session, which threads may ask at once."""

    def __init__(
        self,
        session: Any,
        declared: Declared,
        device: torch.device = CPU,
    ) -> None:
        super().__init__()
        self.session, self.device = session, device
        self.inputs = inputs_of(session, declared.contract)
        self.outputs = outputs_of(session, declared)

    def ask(self, tensors: dict[str, torch.Tensor]) -> Any:
        # From a CUDA device it goes through the host: a graph may hold nodes that run
        # there alone, and onnxruntime copies what it needs by itself.
        given = {name: one.cpu().numpy() for name, one in tensors.items()}
        feed = {one.name: one.take(given) for one in self.inputs}
        found: list[np.ndarray] = self.session.run(list(self.outputs.names), feed)
        return self.outputs.answer(found, self.device)
