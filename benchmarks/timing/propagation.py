r"""Arrival times through a circuit, as mixtures, given the global factors.

Given the global factors only the gates' local parts are random, and two arrivals depend on each
other only through the gates that their paths share. A level of gates at a time we keep

* each arrival as a mixture: the sum with a delay is exact, component by component, and the maximum
  of two is refitted from its cell masses under a Gaussian copula (Nadarajah & Kotz 2008 is the
  case of one component);
* the covariances of all arrivals that are still waited for, after Clark (1961): the covariance of
  max(A, B) with C is that of A or of B with C, weighted by the probability that it is the later,
  and scaled so that correlations stay where first order loses variance (a heuristic).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.timing.circuit import LOCAL, Circuit, local_law
from kernels.gmm.mixture import Mixture, cdf, moments, survival
from kernels.gmm.shapes import bivariate_normal_cdf

Fit = Callable[[Tensor, Tensor], Mixture]
"""Cell masses (B, N) and edges (B, N + 1) to mixtures (B, K)."""

_CELLS, _REACH = 64, 6.0
_CERTAIN = 4.5
"""Distance of two arrivals, in sigmas of their difference, beyond which the later one is it."""


class Nets(NamedTuple):
    """Arrival times of S nets at each of X values of the global factors.

    Attributes:
        law: Mixtures, :math:`(X, S, C)`, of any number of components.
        mean: :math:`(X, S)`.
        covariance: :math:`(X, S, S)`; its diagonal holds the variances of the mixtures.
    """

    law: Mixture
    mean: Tensor
    covariance: Tensor


class Later(NamedTuple):
    """What the maximum over some inputs of G gates is so far.

    Attributes:
        law: Mixtures, :math:`(X, G, C)`.
        mean: :math:`(X, G)`.
        variance: :math:`(X, G)`.
        shares: Weights of the nets of which it is the sum to first order, :math:`(X, G, S)`.
        covariance: With each net, :math:`(X, G, S)`.
    """

    law: Mixture
    mean: Tensor
    variance: Tensor
    shares: Tensor
    covariance: Tensor


def endpoint(circuit: Circuit, factors: Tensor, fit: Fit) -> Mixture:
    """Law of the endpoint's arrival given the global factors.

    Args:
        circuit: The gates.
        factors: Values of the global factors, (X, 2).
        fit: What puts a mixture of few components in the place of one on a grid.

    Returns:
        Mixtures, (X, K).
    """
    active, nets = torch.empty(0, dtype=torch.long), _nothing(len(factors))
    last = _last_use(circuit)
    for first, stop in zip(circuit.levels[:-1], circuit.levels[1:], strict=True):
        gates = torch.arange(int(first), int(stop))
        nets = _through(circuit, gates, active, nets, factors, fit)
        active = torch.cat([active, gates])
        kept = last[active] >= stop
        active, nets = active[kept], _some(nets, kept)
    return _latest_of_all(nets, fit)


def _nothing(values: int) -> Nets:
    empty = torch.empty(values, 0, 1, dtype=torch.float64)
    return Nets(Mixture(empty, empty, empty), empty[..., 0], torch.empty(values, 0, 0).double())


def _some(nets: Nets, kept: Tensor) -> Nets:
    law = Mixture(*(part[:, kept] for part in nets.law))
    return Nets(law, nets.mean[:, kept], nets.covariance[:, kept][:, :, kept])


def _last_use(circuit: Circuit) -> Tensor:
    """Last gate that each gate drives; for the ends, which the endpoint waits for, all gates."""
    last = torch.zeros(len(circuit.law), dtype=torch.long)
    for column in circuit.inputs.T:
        gates = (column >= 0).nonzero()[0]
        drivers, gates = torch.as_tensor(column[gates], dtype=torch.long), torch.as_tensor(gates)
        last = last.scatter_reduce(0, drivers, gates, "amax")
    last[torch.as_tensor(circuit.ends)] = len(last)
    return last


def _through(
    circuit: Circuit, gates: Tensor, active: Tensor, nets: Nets, factors: Tensor, fit: Fit
) -> Nets:
    """The nets with those of one more level, which is driven by them."""
    inputs = torch.as_tensor(circuit.inputs)[gates].long()
    slots = torch.searchsorted(active, inputs).where(inputs >= 0, -1)
    delay, center = _delays(circuit, gates, factors)
    spread = torch.as_tensor(circuit.local)[gates].square()
    if not len(active):
        law = Mixture(*(part.expand(len(factors), -1, -1) for part in delay))
        law = law._replace(means=law.means + center[..., None])
        return Nets(law, center, torch.diag_embed(spread.expand(len(factors), -1)))
    later = _latest_input(nets, slots, fit)
    law = _sum(later.law, delay)
    law = law._replace(means=law.means + center[..., None])
    between = later.covariance @ later.shares.mT
    between = between - torch.diag_embed(between.diagonal(dim1=1, dim2=2))
    between = between + torch.diag_embed(later.variance + spread)
    return _joined(nets, Nets(law, later.mean + center, between), later.covariance)


def _delays(circuit: Circuit, gates: Tensor, factors: Tensor) -> tuple[Mixture, Tensor]:
    """Laws of the gates' local parts, (G, Kd), and their means at each factor, (X, G)."""
    laws = [local_law(index) for index in range(len(LOCAL))]
    stacked = Mixture(*(torch.stack(parts) for parts in zip(*laws, strict=True)))
    which = torch.as_tensor(circuit.law)[gates].long()
    size = torch.as_tensor(circuit.local)[gates, None]
    local = Mixture(
        stacked.log_weights[which], stacked.means[which] * size, stacked.sigmas[which] * size
    )
    nominal = torch.as_tensor(circuit.nominal)[gates]
    return local, nominal * (1 + factors @ torch.as_tensor(circuit.global_shares)[gates].mT)


def _sum(a: Mixture, b: Mixture) -> Mixture:
    """Law of the sum of independent variables, (*, Ka) and (*, Kb) to (*, Ka Kb)."""
    return Mixture(
        (a.log_weights[..., None] + b.log_weights[..., None, :]).flatten(-2),
        (a.means[..., None] + b.means[..., None, :]).flatten(-2),
        (a.sigmas.square()[..., None] + b.sigmas.square()[..., None, :]).sqrt().flatten(-2),
    )


def _joined(nets: Nets, new: Nets, across: Tensor) -> Nets:
    if nets.law.means.shape[-1] != new.law.means.shape[-1]:
        nets = nets._replace(law=_padded(nets.law, new.law.means.shape[-1]))
    law = Mixture(*(torch.cat(parts, dim=1) for parts in zip(nets.law, new.law, strict=True)))
    top = torch.cat([nets.covariance, across.mT], dim=2)
    bottom = torch.cat([across, new.covariance], dim=2)
    mean = torch.cat([nets.mean, new.mean], dim=1)
    return Nets(law, mean, torch.cat([top, bottom], dim=1))


def _padded(m: Mixture, components: int) -> Mixture:
    """With components of no weight."""
    more = (0, components - m.means.shape[-1])
    return Mixture(
        torch.nn.functional.pad(m.log_weights, more, value=-math.inf),
        torch.nn.functional.pad(m.means, more),
        torch.nn.functional.pad(m.sigmas, more, value=1.0),
    )


def _latest_input(nets: Nets, slots: Tensor, fit: Fit) -> Later:
    """The latest of each gate's inputs; slots (G, 4), -1 where there is none."""
    later = _taken(nets, slots[:, 0])
    alone = slots[:, 1] < 0
    components = 0
    for column in slots[:, 1:].T:
        rows = (column >= 0).nonzero()[:, 0]
        if not len(rows):
            continue
        merged = _later_of(_rows(later, rows), _taken(nets, column[rows]), fit)
        components = merged.law.means.shape[-1]
        later = _put(later, rows, merged)
    rows = alone.nonzero()[:, 0]
    if len(rows):
        kept = _rows(later, rows)
        edges = _grid(kept.mean, kept.variance)
        law = _fitted(cdf(kept.law, edges), edges, fit)
        components = law.means.shape[-1]
        later = _put(later, rows, kept._replace(law=law))
    return later._replace(law=Mixture(*(part[..., :components] for part in later.law)))


def _taken(nets: Nets, slots: Tensor) -> Later:
    variance = nets.covariance.diagonal(dim1=1, dim2=2)
    shares = torch.nn.functional.one_hot(slots, nets.mean.shape[1]).double()
    law = Mixture(*(part[:, slots] for part in nets.law))
    shares = shares.expand(len(nets.mean), -1, -1)
    return Later(law, nets.mean[:, slots], variance[:, slots], shares, nets.covariance[:, slots])


def _rows(later: Later, rows: Tensor) -> Later:
    law, *others = later
    return Later(Mixture(*(part[:, rows] for part in law)), *(part[:, rows] for part in others))


def _put(later: Later, rows: Tensor, new: Later) -> Later:
    most = max(part.law.means.shape[-1] for part in (later, new))
    laws = (_padded(part.law, most) for part in (later, new))
    law = [old.index_copy(1, rows, part) for old, part in zip(*laws, strict=True)]
    rest = [old.index_copy(1, rows, part) for old, part in zip(later[1:], new[1:], strict=True)]
    return Later(Mixture(*law), *rest)


def _later_of(a: Later, b: Later, fit: Fit) -> Later:
    """The later of two arrivals, gate by gate."""
    covariance = (a.shares * b.covariance).sum(dim=2)
    theta = (a.variance + b.variance - 2 * covariance).clamp_min(1e-12).sqrt()
    alpha = (a.mean - b.mean) / theta
    share, height = (
        torch.special.ndtr(alpha),
        torch.exp(-alpha.square() / 2) / math.sqrt(2 * math.pi),
    )
    mean = share * a.mean + (1 - share) * b.mean + theta * height
    second = share * (a.variance + a.mean.square()) + (1 - share) * (b.variance + b.mean.square())
    variance = second + (a.mean + b.mean) * theta * height - mean.square()
    edges = _grid(mean, variance)
    rho = covariance / (a.variance * b.variance).sqrt()
    below = bivariate_normal_cdf(
        _score(a.law, edges), _score(b.law, edges), rho.clamp(-0.999, 0.999)[..., None]
    )
    law = _fitted(below, edges, fit)
    found = moments(law)
    # To first order the maximum is a weighted mean of the two, of less variance than it has. What
    # is missing belongs to the same gates: it is taken to be correlated with other arrivals as the
    # mean is. Without it the variance falls behind from level to level.
    first = share.square() * a.variance + (1 - share).square() * b.variance
    first = first + 2 * share * (1 - share) * covariance
    grown = (found.variance / first.clamp_min(1e-12)).sqrt()[..., None]
    weight = share[..., None] * grown, (1 - share[..., None]) * grown
    mixed = weight[0] * a.shares + weight[1] * b.shares
    across = weight[0] * a.covariance + weight[1] * b.covariance
    return Later(law, found.mean, found.variance, mixed, across)


def _grid(mean: Tensor, variance: Tensor) -> Tensor:
    steps = torch.linspace(-_REACH, _REACH, _CELLS + 1, dtype=mean.dtype)
    return mean[..., None] + variance.sqrt()[..., None] * steps


def _score(m: Mixture, z: Tensor) -> Tensor:
    """Standard normal quantiles of the CDF at z, from the smaller tail."""
    below, above = cdf(m, z), survival(m, z)
    score = torch.special.ndtri(torch.minimum(below, above).clamp(1e-300, 0.5))
    return torch.where(below < above, score, -score)


def _fitted(below: Tensor, edges: Tensor, fit: Fit) -> Mixture:
    """Mixtures (X, G, K) of the law with that CDF at the edges, (X, G, N + 1)."""
    masses = below.diff(dim=-1).clamp_min(0.0)
    masses = masses / masses.sum(dim=-1, keepdim=True)
    law = fit(masses.flatten(0, 1), edges.flatten(0, 1))
    return Mixture(*(part.reshape(*below.shape[:2], -1) for part in law))


def _latest_of_all(nets: Nets, fit: Fit) -> Mixture:
    """The latest of all nets, from the one with the latest mean on."""
    order = nets.mean.mean(dim=0).argsort(descending=True)
    later = _taken(nets, order[:1])
    for slot in order[1:]:
        other = _taken(nets, slot[None])
        gap = (later.mean - other.mean) / (later.variance + other.mean.new_zeros(1)).sqrt()
        if gap.min() > 12:
            break
        later = _later_of(later, other, fit)
    return Mixture(*(part[:, 0] for part in later.law))
