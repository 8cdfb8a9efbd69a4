"""The state of every random generator that a step may draw from."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """Take the states of Python's, NumPy's and torch's (CPU and every CUDA device) generators.

    The result holds tensors, numbers and lists alone, so a checkpoint can carry it.
    """
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - the global generator is user code's, its state is ours to keep
    return {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.array(keys)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def seed(value: int) -> None:
    """Seed every global generator, so that a member starts from the same state every time."""
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - see capture
    torch.manual_seed(value)


def restore(state: Mapping[str, Any]) -> None:
    """Set every generator to a state from :func:`capture`.

    Raises:
        RuntimeError: The state was taken with another number of CUDA devices.
    """
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(state["cuda"]) != devices:
        raise RuntimeError(
            f"random state: expected {len(state['cuda'])} CUDA devices as when it was saved, "
            f"found {devices}. Resume on a node with the same number of GPUs."
        )
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy(), position, has_gauss, cached))  # noqa: NPY002 - see capture
    torch.set_rng_state(state["torch"])
    if devices:
        torch.cuda.set_rng_state_all(state["cuda"])
