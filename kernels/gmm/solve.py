"""The classical solver: several starts, the poor ones given up early, the best one polished."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.gmm import descent
from kernels.gmm.descent import Descent, Method
from kernels.gmm.em import SigmaBounds
from kernels.gmm.gridded import Gridded
from kernels.gmm.mixture import Mixture
from kernels.gmm.start import FIRST, LATER_DAMPING, SECOND, quantile_start

_FUSED = ("em", "squarem", "scoring")


class Fit(NamedTuple):
    """Mixtures fitted to a batch of densities.

    Attributes:
        mixture: (B, K), means in order; NaN in rows that could not be fitted.
        kl: Binned divergence, (B), in nats; NaN in rows that could not be fitted.
        iterations: Evaluations of a mixture on the grid, of all starts together, (B).
        converged: Whether the last descent reached the tolerance, (B).
        failed: Rows whose masses were not finite, (B).
    """

    mixture: Mixture
    kl: Tensor
    iterations: Tensor
    converged: Tensor
    failed: Tensor


def solve(
    gridded: Gridded,
    components: int,
    method: Method = "scoring",
    starts: int = 4,
    budget: int = 60,
    tolerance: float = 1e-9,
    compiled: bool | None = None,
    bounds: SigmaBounds | None = None,
) -> Fit:
    """Fit mixtures to gridded densities.

    With several starts all get 12 evaluations, the better half of them 20 more, and the best the
    budget. On a CPU the compiled loop is used, in float64, on one thread; elsewhere, or where it is
    declined, tensor operations in the precision of the masses. Both end at the same mixtures up to
    rounding.

    Args:
        gridded: What to fit, from :func:`kernels.gmm.reading.read_gridded`.
        components: K.
        method: See :func:`kernels.gmm.descent.descend`.
        starts: How many to try, of :func:`kernels.gmm.start.quantile_start`.
        budget: Most evaluations of the last descent.
        tolerance: See :func:`kernels.gmm.descent.descend`.
        compiled: Whether to use the compiled loop; by default where it can be.
        bounds: Of sigma, if not those of the grid.

    Raises:
        ValueError: No component, no start, no budget, or a method that is not compiled.
    """
    if components < 1 or starts < 1:
        raise ValueError(f"expected a component and a start, found {components} and {starts}")
    if _choose(gridded, method, compiled):
        # Here, because the import of the compiler takes a second.
        from kernels.gmm import fused

        found = fused.solve(gridded, components, method, starts, budget, tolerance, bounds)
        return _fit(found, found.evaluations)
    run = partial(descent.descend, gridded, method=method, tolerance=tolerance, bounds=bounds)
    later: dict[str, Any] = {"warm": 0, "damping": LATER_DAMPING}
    first = budget if starts == 1 else min(FIRST, budget)
    begun = [quantile_start(gridded, components, i, bounds) for i in range(starts)]
    tried = [run(start, budget=first) for start in begun]
    used = _used(tried)
    if starts > 2:
        second = min(SECOND, budget)
        tried = [run(m, budget=second, **later) for m in _best(tried, (starts + 1) // 2)]
        used = used + _used(tried)
    if starts > 1:
        tried = [run(_best(tried, 1)[0], budget=budget, **later)]
        used = used + _used(tried)
    return _fit(tried[0], used)


def _fit(last: Descent, used: Tensor) -> Fit:
    return Fit(last.mixture.sort(), last.kl, used, last.converged, last.kl.isnan())


def _choose(gridded: Gridded, method: Method, compiled: bool | None) -> bool:
    on_cpu = gridded.masses.device.type == "cpu"
    return on_cpu and method in _FUSED if compiled is None else compiled


def _used(tried: list[Descent]) -> Tensor:
    return torch.stack([result.evaluations for result in tried]).sum(dim=0)


def _best(tried: list[Descent], count: int) -> list[Mixture]:
    """The best mixtures of every row, best first."""
    order = torch.stack([result.kl for result in tried]).argsort(dim=0, stable=True)
    parts = [torch.stack(part) for part in zip(*(d.mixture for d in tried), strict=True)]
    rows = torch.arange(order.shape[1], device=order.device)
    return [Mixture(*(part[order[i], rows] for part in parts)) for i in range(count)]
