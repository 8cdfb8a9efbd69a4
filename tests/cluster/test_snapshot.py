"""Laws of snapshots: equal to the state, shared where it shares, and out of its reach."""

import collections
import copy
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_work import SmallTrainer, equal
from torch import Tensor

from cluster.checkpoints.snapshot import snapshot

tensors = st.builds(
    lambda shape, dtype: (torch.randn(shape) * 10).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.bool]),
)
states = st.recursive(
    st.none() | st.integers() | st.text() | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def _spoil(value: Any) -> None:
    """Change everything in a state that can be changed in place."""
    if isinstance(value, Tensor):
        value.data.fill_(1)
    elif isinstance(value, dict):
        for item in value.values():
            _spoil(item)
        value["spoiled"] = True
    elif isinstance(value, list | tuple):
        for item in value:
            _spoil(item)
        if isinstance(value, list):
            value.append("spoiled")


def _size(state: object) -> int:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()


@given(st.dictionaries(st.text(max_size=4), states, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_snapshot_is_equal_and_stays_so(state: dict[str, Any]) -> None:
    before = copy.deepcopy(state)
    taken = snapshot(state)
    assert equal(taken, state)
    _spoil(state)
    assert equal(taken, before)


def test_what_is_shared_stays_shared() -> None:
    weights, history = torch.randn(40, 50), [1, 2]
    state = {"weights": weights, "twice": [weights, weights.T, weights[3:7, ::2]], "h": history}
    state["same"] = history
    taken = snapshot(state)
    assert equal(taken, state)
    assert taken["twice"][0] is taken["weights"]
    assert taken["h"] is taken["same"]
    taken["weights"].zero_()
    assert all(part.abs().sum() == 0 for part in taken["twice"])
    assert weights.abs().sum() > 0
    # Shared storages are written once: the copy takes no more than the state.
    assert _size(taken) == _size(state)


def test_a_state_that_holds_itself_is_copied() -> None:
    state: dict[str, Any] = {"weights": torch.ones(3)}
    state["self"] = [state]
    taken = snapshot(state)
    assert taken["self"][0]["weights"] is taken["weights"]
    assert taken["weights"] is not state["weights"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, requires_grad=True) * 2,  # part of a graph: deepcopy refuses it
        torch.nn.Parameter(torch.ones(3), requires_grad=False),
        torch.ones(3, dtype=torch.complex64).conj(),
        torch.eye(3).to_sparse(),
        torch.empty(0),
        torch.tensor(1.5),
        torch.ones(1).expand(4),
    ],
)
def test_odd_tensors_are_copied_as_they_are(tensor: Tensor) -> None:
    (taken,) = snapshot({"": tensor}).values()
    assert type(taken) is type(tensor)
    assert taken.requires_grad == tensor.requires_grad
    assert taken.layout is tensor.layout
    assert torch.equal(taken.to_dense(), tensor.to_dense())
    assert taken.grad_fn is None


def test_containers_keep_their_kind() -> None:
    state = {
        "ordered": torch.nn.Linear(2, 2).state_dict(),
        "counts": collections.Counter("aab"),
        "set": {1, 2},
    }
    taken = snapshot(state)
    assert equal(taken, state)
    assert [type(value) for value in taken.values()] == [type(value) for value in state.values()]
    assert vars(taken["ordered"]) == vars(state["ordered"])
    assert "_metadata" in vars(taken["ordered"])


def test_a_trainers_snapshot_does_not_follow_its_optimizer() -> None:
    trainer = SmallTrainer(0)
    for _ in range(3):
        trainer.step()
    taken, buffer = snapshot(trainer.state_dict()), io.BytesIO()
    torch.save(dict(trainer.state_dict()), buffer)
    for _ in range(3):
        trainer.step()
    buffer.seek(0)
    assert equal(taken, torch.load(buffer, weights_only=True))
    assert not equal(taken, dict(trainer.state_dict()))
