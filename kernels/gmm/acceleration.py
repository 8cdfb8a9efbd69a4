"""Trials that are bolder than an EM step, for whole batches of states (B, 3, K).

A state holds log weights, means and log sigmas, in coordinates in which the density has variance
one. The compiled fits of ``fused`` do the same arithmetic, one density at a time.
"""

import torch
from torch import Tensor

from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture, log_component_masses, standardized

#: Least log weight of a trial.
LEAST_LOG_WEIGHT = -690.0
#: Least pivot of a matrix that is taken as positive, and the damping that is tried then.
SINGULAR = 1e-13
LEAST_DAMPING, MOST_DAMPING = 1e-5, 1e12
#: Between scoring (0), which always descends, and Newton's method (1), which ends quadratically.
CURVE = 0.5
_SQRT_2PI = 2.5066282746310002


def mixture_of(states: Tensor) -> Mixture:
    """The mixtures of states (B, 3, K)."""
    return Mixture(states[:, 0], states[:, 1], states[:, 2].exp())


def states_of(m: Mixture) -> Tensor:
    """The states (B, 3, K) of mixtures."""
    return torch.stack([m.log_weights, m.means, m.sigmas.log()], dim=1)


def within(states: Tensor, limits: Tensor) -> Tensor:
    """States with log sigmas within limits (B, 2), and weights that sum to one."""
    weights = states[:, 0].clamp(min=LEAST_LOG_WEIGHT)
    weights = weights - weights.logsumexp(dim=-1, keepdim=True)
    sigmas = states[:, 2].clamp(limits[:, :1], limits[:, 1:])
    return torch.stack([weights, states[:, 1], sigmas], dim=1)


def squarem_trial(start: Tensor, first: Tensor, second: Tensor) -> Tensor:
    r"""Extrapolate two EM steps: :math:`x_0 + 2 a r + a^2 v`, :math:`a = \max(1, |r| / |v|)`.

    References:
        Varadhan and Roland, *Simple and globally convergent methods for accelerating the
        convergence of any EM algorithm*, Scandinavian Journal of Statistics 35, 2008; scheme S3.
    """
    step = first - start
    bend = second - first - step
    tiny = torch.finfo(step.dtype).tiny
    ratio = step.square().sum((1, 2)) / bend.square().sum((1, 2)).clamp(min=tiny)
    length = ratio.sqrt().clamp(min=1).view(-1, 1, 1)
    trial = start + 2 * length * step + length.square() * bend
    return torch.cat([trial[:, :1].clamp(max=0), trial[:, 1:]], dim=1)


def anderson_trial(states: Tensor, images: Tensor) -> Tensor:
    r"""Mix the last EM steps so that the residual is least, by regularized least squares.

    Args:
        states: The last states, the newest last, (M, B, 3, K).
        images: Their EM steps.

    References:
        Walker and Ni, *Anderson acceleration for fixed-point iterations*, SIAM Journal on Numerical
        Analysis 49, 2011.
    """
    residuals = (images - states).flatten(2)
    steps = residuals.diff(dim=0).permute(1, 2, 0)
    gram = steps.mT @ steps
    scale = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-300).view(-1, 1, 1)
    ridge = 1e-10 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) * scale
    right = steps.mT @ residuals[-1].unsqueeze(-1)
    shares = torch.linalg.solve(gram + ridge, right)
    moved = images.flatten(2).diff(dim=0).permute(1, 2, 0)
    mixed: Tensor = images[-1] - (moved @ shares).squeeze(-1).view_as(images[-1])
    return mixed


def scoring_trial(
    gridded: Gridded, states: Tensor, limits: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""A damped step of scoring on the binned divergence.

    In log weights, means in sigmas and log sigmas the outer product of the scores,
    :math:`A = \sum_i w_i\, \nabla \log p_i \nabla \log p_i^\top`, holds :math:`\pi \pi^\top` more
    than belongs to the Hessian, which is singular along equal changes of all log weights: that
    fixes the gauge and leaves the step as it is. The rest of the Hessian is a few sums for each
    component, of which ``CURVE`` is added. The step solves
    :math:`(A + \lambda I)\,\delta = -g`, and is cut to one sigma, one e-fold.

    Args:
        gridded: Masses (B, N) and edges (B, N+1).
        states: (B, 3, K).
        limits: Of log sigma, (B, 2).
        damping: :math:`\lambda`, (B), raised where the matrix is not positive.

    Returns:
        The trial, the damping that it took, and the decrease that it promises.
    """
    gradient, matrix = _derivatives(gridded, states)
    gradient, matrix = _hold_bounds(states, limits, gradient, matrix)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    while True:
        factor, info = torch.linalg.cholesky_ex(matrix + damping.view(-1, 1, 1) * identity)
        least = factor.diagonal(dim1=-2, dim2=-1).amin(-1).square()
        bad = ((info > 0) | ~(least > SINGULAR)) & (damping < MOST_DAMPING)
        if not bad.any():
            break
        damping = torch.where(bad, (4 * damping).clamp(min=LEAST_DAMPING), damping)
    step = -torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
    promise = -(gradient * step).sum(-1)
    cut = step.abs().amax(-1).clamp(min=1).reciprocal().unsqueeze(-1)
    weight, shift, spread = (cut * step).chunk(3, dim=-1)
    change = torch.stack([weight, shift * states[:, 2].exp(), spread], dim=1)
    return within(states + change, limits), damping, promise


def _derivatives(gridded: Gridded, states: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (B, 3K) and curvature (B, 3K, 3K) of the divergence."""
    m = mixture_of(states)
    logs = log_component_masses(m, gridded.edges)
    whole = logs.logsumexp(dim=-1, keepdim=True)
    z = standardized(m, gridded.edges)
    # Densities at the edges over the mass of the cell at either side, times powers of z.
    scale = m.log_weights.unsqueeze(-2) - 0.5 * z.square()
    low, high = (scale[:, :-1] - whole).exp(), (scale[:, 1:] - whole).exp()
    a, b = z[:, :-1], z[:, 1:]
    parts = [(low * a**n - high * b**n) / _SQRT_2PI for n in range(4)]
    slopes = torch.cat([(logs - whole).exp(), parts[0], parts[1]], dim=-1)
    weights = gridded.masses.unsqueeze(-1)
    matrix = slopes.mT @ (weights * slopes)
    mass = (weights * (logs - whole).exp()).sum(-2)
    first, second, third, fourth = ((weights * part).sum(-2) for part in parts)
    lack = states[:, 0].exp() - mass
    blocks = [[lack, -first, -second], [-first, -second, first - third]]
    blocks.append([-second, first - third, second - fourth])
    rest = torch.cat([torch.cat([x.diag_embed() for x in row], -1) for row in blocks], -2)
    return torch.cat([lack, -first, -second], dim=-1), matrix + CURVE * rest


def _hold_bounds(
    states: Tensor, limits: Tensor, gradient: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """Take the sigmas out of the step that are at a bound and would leave."""
    values, slope = states[:, 2], gradient.chunk(3, dim=-1)[2]
    stuck = ((values <= limits[:, :1]) & (slope > 0)) | ((values >= limits[:, 1:]) & (slope < 0))
    held = torch.cat([torch.zeros_like(stuck), torch.zeros_like(stuck), stuck], dim=-1)
    cross = held.unsqueeze(-1) | held.unsqueeze(-2)
    matrix = matrix.masked_fill(cross, 0.0) + held.to(matrix).diag_embed()
    return gradient.masked_fill(held, 0.0), matrix
