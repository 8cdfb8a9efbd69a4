"""Classical fits of cell masses by batched tensor operations, on any device."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from kernels.gmm.acceleration import (
    LEAST_DAMPING,
    anderson_trial,
    mixture_of,
    scoring_trial,
    squarem_trial,
    states_of,
    within,
)
from kernels.gmm.em import SigmaBounds, em_step_cells, sigma_bounds
from kernels.gmm.gridded import Gridded, Standardization, kl_divergence
from kernels.gmm.mixture import Mixture

Method = Literal["em", "squarem", "anderson", "scoring"]
_HISTORY = 6


class Plan(NamedTuple):
    """How to descend: the arguments of :func:`descend`."""

    method: Method
    budget: int
    tolerance: float
    damping: float
    warm: int


class Descent(NamedTuple):
    """Where a descent ended.

    Attributes:
        mixture: (B, K); NaN in rows whose masses or start were not finite.
        kl: Binned divergence, (B), in nats.
        evaluations: How many were used, (B).
        accepted: Bold trials that were taken, (B).
        converged: Whether the tolerance was reached within the budget, (B).
    """

    mixture: Mixture
    kl: Tensor
    evaluations: Tensor
    accepted: Tensor
    converged: Tensor


class Prepared(NamedTuple):
    """A problem in standard coordinates, and the way back."""

    change: Standardization
    gridded: Gridded
    states: Tensor
    limits: Tensor


def prepare(gridded: Gridded, start: Mixture, bounds: SigmaBounds | None) -> Prepared:
    """Change to coordinates in which every density has mean zero and variance one."""
    change = Standardization.of(gridded)
    low, high = sigma_bounds(gridded) if bounds is None else bounds
    limits = torch.cat([low / change.scale, high / change.scale], dim=-1).log()
    states = states_of(change.mixture(start))
    return Prepared(change, change.forward(gridded), within(states, limits), limits)


def descend(
    gridded: Gridded,
    start: Mixture,
    method: Method = "scoring",
    budget: int = 60,
    tolerance: float = 1e-9,
    damping: float = 0.1,
    warm: int = 2,
    bounds: SigmaBounds | None = None,
) -> Descent:
    """Lower the binned divergence from a start; rows do not know of each other.

    ``em`` takes steps of :func:`kernels.gmm.em.em_step_cells`, ``squarem`` and ``anderson``
    extrapolate them, ``scoring`` is :func:`kernels.gmm.acceleration.scoring_trial`. A trial is
    taken where the divergence fell, and the EM step where it did not: no method ever rises.

    Args:
        gridded: What to fit.
        start: Where from, (B, K), in the precision and on the device of the masses.
        method: How.
        budget: Most evaluations of a mixture on the grid, at least one.
        tolerance: Ends a row, in nats: of what the last EM step won, or the next one of scoring
            promises.
        damping: First damping of scoring.
        warm: EM steps before the first of scoring.
        bounds: Of sigma, if not those of the grid.

    Raises:
        ValueError: An unknown method, or no budget.
    """
    if method not in get_args(Method) or budget < 1:
        raise ValueError(
            f"expected a budget and one of {get_args(Method)}, found {budget}, {method}"
        )
    plan = Plan(method, budget, tolerance, damping, warm)
    lost = ~(gridded.masses.isfinite().all(-1) & states_of(start).isfinite().all(-1).all(-1))
    loop = _Loop(prepare(*_without(lost, gridded, start), bounds), plan, lost)
    while not loop.done.all() and loop.rounds < plan.budget:
        loop.round()
    gone = lost.unsqueeze(-1)
    fitted = loop.problem.change.inverse(mixture_of(loop.states))
    fitted = Mixture(*(tensor.masked_fill(gone, torch.nan) for tensor in fitted))
    kl = loop.kl.masked_fill(lost, torch.nan)
    return Descent(fitted, kl, loop.used, loop.accepted, loop.done & ~lost)


def _without(lost: Tensor, gridded: Gridded, start: Mixture) -> tuple[Gridded, Mixture]:
    """The same problems, and an easy one in place of each that is lost: no NaN goes on."""
    gone = lost.unsqueeze(-1)
    width = gridded.edges.diff(dim=-1)
    even = width / width.sum(dim=-1, keepdim=True)
    masses = torch.where(gone, even, gridded.masses)
    middle, scale = gridded.edges.mean(-1, keepdim=True), width.sum(dim=-1, keepdim=True)
    parts = zip(start, (torch.zeros_like(middle), middle, scale), strict=True)
    safe = Mixture(*(torch.where(gone, easy, part) for part, easy in parts))
    return gridded._replace(masses=masses), safe


class _Loop:
    """All rows of a descent in lockstep. A round evaluates an EM step, or a bolder trial."""

    def __init__(self, problem: Prepared, plan: Plan, lost: Tensor) -> None:
        self.problem, self.plan, self.rounds = problem, plan, 0
        self.states = problem.states
        self.trial, self.em, self.start = (problem.states.clone() for _ in range(3))
        self.kl = torch.full_like(problem.states[:, 0, 0], torch.inf)
        self.damping = torch.full_like(self.kl, plan.damping)
        self.used = torch.zeros_like(lost, dtype=torch.long)
        self.accepted = self.used.clone()
        self.bold, self.phase = torch.zeros_like(lost), torch.zeros_like(lost)
        self.done = lost.clone()
        self.history: list[tuple[Tensor, Tensor]] = []

    def round(self) -> None:
        """Evaluate the trials, and make the next ones."""
        gridded, active = self.problem.gridded, ~self.done
        ahead = kl_divergence(gridded, mixture_of(self.trial))
        failed = active & self.bold & ~(ahead <= self.kl)
        taken = active & ~failed
        self.rounds += 1
        self.used = self.used + active
        self.done = self.done | self._ended(taken, ahead)
        self.accepted = self.accepted + (taken & self.bold)
        raised = (8 * self.damping).clamp(min=LEAST_DAMPING)
        self.damping = torch.where(failed, raised, self.damping)
        self.damping = torch.where(taken & self.bold, self.damping / 4, self.damping)
        self.start = _where(taken, self.states, self.start)
        self.states = _where(taken, self.trial, self.states)
        self.kl = torch.where(taken, ahead, self.kl)
        limits = self.problem.limits.exp()
        bounds = SigmaBounds(limits[:, :1], limits[:, 1:])
        step = em_step_cells(mixture_of(self.states), gridded.masses, gridded.edges, bounds)
        self.em = _where(taken, states_of(step), self.em)
        self._next(taken)

    def _ended(self, taken: Tensor, ahead: Tensor) -> Tensor:
        if self.plan.method == "scoring":
            return torch.zeros_like(taken)
        return taken & ~self.bold & (self.kl - ahead <= self.plan.tolerance)

    def _next(self, taken: Tensor) -> None:
        """The next trials: the EM step where the last trial failed or nothing bolder is known."""
        trial, self.bold = self.em, torch.zeros_like(taken)
        if self.plan.method == "squarem":
            self.bold = taken & self.phase
            self.phase = taken & ~self.phase
            trial = squarem_trial(self.start, self.states, self.em)
        elif self.plan.method == "anderson":
            self.history = [*self.history, (self.states, self.em)][-_HISTORY:]
            self.bold = taken & (len(self.history) > 1)
            if len(self.history) > 1:
                trial = anderson_trial(
                    *(torch.stack(part) for part in zip(*self.history, strict=True))
                )
        elif self.plan.method == "scoring" and self.rounds > self.plan.warm:
            trial, damping, promise = scoring_trial(
                self.problem.gridded, self.states, self.problem.limits, self.damping
            )
            self.bold = taken
            self.damping = torch.where(taken, damping, self.damping)
            self.done = self.done | (taken & (promise <= self.plan.tolerance))
        bold = within(trial, self.problem.limits)
        self.trial = _where(self.bold, bold, self.em)


def _where(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(rows.view(-1, 1, 1), first, second)
