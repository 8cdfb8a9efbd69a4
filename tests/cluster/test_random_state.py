"""Laws of the random state: after a restore every generator draws what it drew before."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.checkpoints import random_state


def _draws() -> list[float]:
    # An odd number of Gaussian draws leaves half a pair behind in Python's and NumPy's generators.
    return [
        random.gauss(),
        random.random(),
        float(np.random.standard_normal()),  # noqa: NPY002 - the global generator is under test
        float(np.random.rand()),  # noqa: NPY002 - as above
        torch.rand(()).item(),
        torch.randn(()).item(),
    ]


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(1, 4))
def test_draws_repeat_after_a_restore(seed: int, before: int, after: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator is under test
    torch.manual_seed(seed)
    for _ in range(before):
        _draws()
    state = random_state.capture()
    first = [_draws() for _ in range(after)]
    random_state.restore(state)
    assert [_draws() for _ in range(after)] == first


@given(st.integers(0, 2**63 - 1))
def test_a_seed_gives_the_same_draws_every_time(seed: int) -> None:
    random_state.seed(seed)
    first = _draws()
    _draws()
    random_state.seed(seed)
    assert _draws() == first


def test_a_capture_is_not_changed_by_later_draws() -> None:
    state = random_state.capture()
    first = _draws()
    for _ in range(700):  # past a regeneration of the Mersenne twister's words
        _draws()
    random_state.restore(state)
    assert _draws() == first


def test_a_state_of_other_devices_is_refused() -> None:
    state: dict[str, Any] = random_state.capture()
    state["cuda"] = [*state["cuda"], torch.get_rng_state()]
    with pytest.raises(RuntimeError, match="CUDA devices as when it was saved"):
        random_state.restore(state)
