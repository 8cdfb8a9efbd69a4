"""Arrival times through small circuits: against exact laws and against each other."""

import numpy as np
import pytest
import torch

from benchmarks.timing.circuit import LOCAL, Circuit, local_law, random_circuit
from benchmarks.timing.clark import endpoint_moments
from benchmarks.timing.monte_carlo import endpoint_samples
from benchmarks.timing.propagation import endpoint
from benchmarks.timing.refit import refit
from kernels.gmm import moments, quantile
from kernels.gmm.shapes import MaximumOfPair

STILL = torch.zeros(1, 2, dtype=torch.float64)


def circuit(inputs: list[list[int]], levels: list[int], law: int = 0) -> Circuit:
    """A circuit of gates with a delay of 1 and a local deviation of 0.1."""
    gates = len(inputs)
    rows = np.full((gates, 4), -1, np.int32)
    for gate, sources in enumerate(inputs):
        rows[gate, : len(sources)] = sources
    return Circuit(
        inputs=rows,
        levels=np.array(levels),
        nominal=np.ones(gates),
        global_shares=np.full((gates, 2), 0.03),
        local=np.full(gates, 0.1),
        law=np.full(gates, law, np.int32),
        ends=np.setdiff1d(np.arange(gates), rows),
    )


@pytest.mark.parametrize("index", range(len(LOCAL)))
def test_local_laws_are_standard(index: int) -> None:
    found = moments(local_law(index))
    assert found.mean.item() == pytest.approx(0, abs=1e-12)
    assert found.variance.item() == pytest.approx(1)


def test_a_random_circuit_has_its_inputs_before_it() -> None:
    found, again = (random_circuit(600, 12, seed=3) for _ in range(2))
    assert np.array_equal(found.inputs, again.inputs)
    level = np.searchsorted(found.levels, np.arange(600), side="right")
    for column in found.inputs.T:
        gates = np.flatnonzero(column >= 0)
        assert (level[column[gates]] < level[gates]).all()
        assert (level[gates] - level[column[gates]] <= 6).all()
    later = found.inputs[level > 1]
    assert (later[:, 0] >= 0).all()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in later)


def test_a_chain_is_a_sum() -> None:
    chain = circuit([[], [0], [1], [2]], [0, 1, 2, 3, 4], law=1)
    found = moments(endpoint(chain, STILL, refit(4)))
    assert found.mean.item() == pytest.approx(4, abs=1e-4)
    assert found.variance.item() == pytest.approx(0.04, rel=2e-3)
    mean, sd = endpoint_moments(chain, correlated=True)
    # The factors are common to the four gates: 4 * 0.03 of each of two, and 0.1 of each gate.
    assert (mean, sd**2) == pytest.approx((4, 0.04 + 2 * 0.12**2))
    shifted = moments(endpoint(chain, torch.ones(1, 2, dtype=torch.float64), refit(4)))
    assert shifted.mean.item() == pytest.approx(4.24, abs=1e-4)


def test_the_later_of_two_gates_is_the_exact_maximum() -> None:
    pair = circuit([[], []], [0, 2])
    law = MaximumOfPair(*(torch.tensor(v).double() for v in ([[1.0, 1.0]], [[0.1, 0.1]], [0.0])))
    z = torch.linspace(0, 2, 20001, dtype=torch.float64)[None]
    density = law.pdf(z)[0] * (z[0, 1] - z[0, 0])
    mean = (density * z[0]).sum()
    sd = (density * (z[0] - mean).square()).sum().sqrt()
    still = Circuit(**{**vars(pair), "global_shares": np.zeros((2, 2)), "law": np.zeros(2, int)})
    assert endpoint_moments(still, correlated=True) == pytest.approx(
        (mean.item(), sd.item()), rel=1e-6
    )
    found = endpoint(still, STILL, refit(4))
    p = torch.special.ndtr(torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64))
    exact = law.cdf(quantile(found, p))
    torch.testing.assert_close(
        torch.special.ndtri(exact), torch.special.ndtri(p)[None], atol=2e-2, rtol=0
    )


def test_paths_that_meet_again_are_not_independent() -> None:
    # One gate drives two, which drive one: what the first adds is common to both.
    diamond = circuit([[], [0], [0], [1, 2]], [0, 1, 3, 4], law=1)
    samples = endpoint_samples(diamond, 100_000, seed=1, factors=np.zeros(2))
    found = moments(endpoint(diamond, STILL, refit(4)))
    assert found.mean.item() == pytest.approx(samples.mean(), abs=3e-3)
    assert found.variance.sqrt().item() == pytest.approx(samples.std(), rel=2e-2)


def test_a_circuit_is_as_monte_carlo_has_it() -> None:
    drawn = random_circuit(400, 10, seed=5)
    samples = endpoint_samples(drawn, 40_000, seed=2, factors=np.zeros(2))
    found = endpoint(drawn, STILL, refit(4))
    three = torch.special.ndtr(torch.tensor([3.0], dtype=torch.float64))
    error = quantile(found, three).item() / np.quantile(samples, three.item()) - 1
    assert abs(error) < 0.01
    assert np.array_equal(samples, endpoint_samples(drawn, 40_000, seed=2, factors=np.zeros(2)))
