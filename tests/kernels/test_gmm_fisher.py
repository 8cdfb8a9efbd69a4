"""Scores and information against autograd, and what a damped step becomes at its two ends."""

import torch
from torch import Tensor

from kernels.gmm.em import SigmaBounds, em_step_cells
from kernels.gmm.fisher import Scores, cell_masses, divergence, scores, solve
from kernels.gmm.gridded import Gridded, kl_divergence
from kernels.gmm.mixture import Mixture, log_cell_masses

FREE = SigmaBounds(torch.tensor([[1e-9]]).double(), torch.tensor([[1e9]]).double())


def _problem() -> tuple[Gridded, Mixture]:
    """Masses of one mixture, and another mixture."""
    edges = torch.linspace(-6, 6, 49, dtype=torch.float64).unsqueeze(0)
    true = Mixture(
        torch.tensor([[0.3, 0.5, 0.2]]).double().log(),
        torch.tensor([[-2.0, 0.0, 2.5]]).double(),
        torch.tensor([[0.6, 0.8, 0.5]]).double(),
    )
    near = Mixture(
        torch.tensor([[0.35, 0.4, 0.25]]).double().log(),
        true.means + torch.tensor([[0.1, -0.1, 0.15]]).double(),
        true.sigmas * torch.tensor([[1.1, 0.9, 1.2]]).double(),
    )
    masses = log_cell_masses(true, edges).exp()
    return Gridded(masses / masses.sum(-1, keepdim=True), edges), near


def _moved(m: Mixture, step: Tensor) -> Mixture:
    """A mixture by a step in local coordinates; its weights need not sum to one."""
    weights, means, sigmas = step.chunk(3, dim=-1)
    return Mixture(m.log_weights + weights, m.means + means * m.sigmas, m.sigmas * sigmas.exp())


def _normalized(m: Mixture) -> Mixture:
    return m._replace(log_weights=m.log_weights.log_softmax(-1))


def test_masses_and_divergence_are_those_of_the_log_domain() -> None:
    gridded, m = _problem()

    exact = log_cell_masses(m, gridded.edges).exp()

    torch.testing.assert_close(cell_masses(m, gridded.edges), exact, rtol=1e-9, atol=2e-13)
    torch.testing.assert_close(
        divergence(gridded, m), kl_divergence(gridded, m), atol=1e-10, rtol=0
    )


def test_the_gradient_is_that_of_autograd() -> None:
    gridded, m = _problem()
    step = torch.zeros(1, 9, dtype=torch.float64, requires_grad=True)

    # The price of weights that do not sum to one makes the divergence that of normalized ones.
    moved = _moved(m, step)
    loss = divergence(gridded, moved) + moved.log_weights.exp().sum()
    (expected,) = torch.autograd.grad(loss.sum(), step)

    torch.testing.assert_close(scores(gridded, m).gradient, -expected, rtol=1e-10, atol=1e-12)


def test_the_information_is_that_of_the_jacobian() -> None:
    gridded, m = _problem()

    def masses(step: Tensor) -> Tensor:
        return cell_masses(_moved(m, step.unsqueeze(0)), gridded.edges).squeeze(0)

    jacobian = torch.func.jacrev(masses)(torch.zeros(9, dtype=torch.float64))
    expected = jacobian.mT @ (jacobian / cell_masses(m, gridded.edges).mT)

    torch.testing.assert_close(scores(gridded, m).information[0], expected, rtol=1e-9, atol=1e-12)


def test_without_damping_steps_converge_quadratically_to_the_truth() -> None:
    gridded, m = _problem()
    errors = []
    for _ in range(6):
        m = _normalized(_moved(m, solve(scores(gridded, m), torch.zeros(1, 1).double())))
        errors.append(kl_divergence(gridded, m).item())

    assert errors[-1] < 1e-9
    assert errors[1] < 0.1 * errors[0]


def test_with_much_damping_the_means_move_as_those_of_em() -> None:
    gridded, m = _problem()
    damping = torch.full((1, 1), 1e8, dtype=torch.float64)
    at = scores(gridded, m)

    step = solve(at, damping) * damping
    counts = at.gradient[:, :3] + m.log_weights.exp()
    em = em_step_cells(m, gridded.masses, gridded.edges, FREE)

    torch.testing.assert_close(step, at.gradient / at.complete, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        step[:, 3:6] * at.complete[:, :3] / counts * m.sigmas, em.means - m.means, rtol=1e-5, atol=0
    )


def test_a_matrix_that_is_not_positive_gives_the_damped_gradient() -> None:
    gradient = torch.tensor([[1.0, -2.0]])
    complete = torch.tensor([[0.5, 0.25]])
    at = Scores(torch.zeros(1), gradient, -torch.eye(2).unsqueeze(0), complete)

    step = solve(at, torch.ones(1, 1))

    torch.testing.assert_close(step, gradient / (2 * complete), rtol=1e-5, atol=0)
