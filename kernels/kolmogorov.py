r"""Pseudo-spectral solver for two-dimensional Kolmogorov flow.

The flow lives on the periodic square :math:`[0, 2\pi)^2` and obeys

.. math::
    \partial_t u + (u \cdot \nabla) u = -\nabla p + \frac{1}{Re} \nabla^2 u
        - \mu u + A \sin(k_f y) \, e_x, \qquad \nabla \cdot u = 0 .

The solver carries the Fourier coefficients of the vorticity
:math:`\omega = \partial_x v - \partial_y u`, so that no pressure is needed and the velocity is
free of divergence by construction.

Grid: point :math:`j` of an axis is the cell center :math:`2\pi (j + 1/2) / n`. A box mean over
``r`` points (:func:`kernels.flow.coarsen`) then lands on the cell centers of the coarser grid.
The last axis is :math:`x`, the one before it :math:`y`; channel 0 is :math:`u`, channel 1
:math:`v`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.spectral import (
    COMPLEX,
    carried_modes,
    kept,
    padded,
    random_flow,
    regrid,
    to_grid,
    to_modes,
    wavenumbers,
)

# Bytes of one real field of all trajectories of a chunk. Larger chunks fall out of the cache,
# smaller ones pay more for every call: 8 trajectories of 128 points in float32, 4 in float64.
_CHUNK_BYTES = 512 * 1024


class KolmogorovSolver:
    r"""Batched integrating-factor Runge--Kutta solver in vorticity form.

    With :math:`N(\omega) = -\nabla \cdot (u \omega)` and the linear part
    :math:`L = -k^2 / Re - \mu`, the equation of every Fourier coefficient is
    :math:`\dot\omega_k = L_k \omega_k + N_k(\omega) + F_k`. The linear part and the constant
    forcing are integrated exactly, :math:`N` by the classical fourth-order scheme. Products are
    formed on the grid as :math:`u^2 - v^2` and :math:`uv`, two transforms each way per stage;
    modes above :math:`(n - 1) / 3` are zero, which makes the products free of aliasing.

    A **state** is a complex tensor :math:`(*, m, n)` of coefficients
    :math:`\omega(x, y) = \sum_k \omega_k e^{i k \cdot (x - h/2)}`, :math:`h = 2\pi / n`, rows
    :math:`k_x = 0 \dots m - 1` and columns :math:`k_y` in FFT order. It is all that the next step
    depends on: a run may be cut into any number of :meth:`advance` calls, or saved and loaded in
    between, and gives the same bits. Every trajectory is computed for itself; the batch around
    it does not change it.

    Args:
        grid: Number of points :math:`n` of each axis, even, at least 8.
        reynolds: Reynolds number, the inverse of the viscosity; ``math.inf`` for none.
        drag: Linear drag :math:`\mu`, in inverse time units.
        forcing_wavenumber: Wavenumber :math:`k_f` of the forcing.
        forcing_amplitude: Amplitude :math:`A` of the forcing.
        dt: Time step. Stability needs about ``dt * max speed * grid / 3 < 2.8``.
        dtype: ``torch.float64`` or ``torch.float32``.

    Raises:
        ValueError: A parameter lies outside its range.

    References:
        | C. Basdevant, *Technical improvements for direct numerical simulation of homogeneous
          three-dimensional turbulence*, J. Comput. Phys. 50, 1983 (the form of the products).
        | G. J. Chandler and R. R. Kerswell, *Invariant recurrent solutions embedded in a
          turbulent two-dimensional Kolmogorov flow*, J. Fluid Mech. 722, 2013.
    """

    def __init__(
        self,
        grid: int = 128,
        reynolds: float = 1000.0,
        drag: float = 0.1,
        forcing_wavenumber: int = 4,
        forcing_amplitude: float = 1.0,
        dt: float = 0.01,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        _check_parameters(grid, reynolds, drag, forcing_wavenumber, dt, dtype)
        self.grid = grid
        self.reynolds = reynolds
        self.drag = drag
        self.forcing_wavenumber = forcing_wavenumber
        self.forcing_amplitude = forcing_amplitude
        self.dt = dt
        self.dtype = dtype
        self.modes = carried_modes(grid)
        self._chunk = max(1, _CHUNK_BYTES // (grid * grid * dtype.itemsize))
        self._tables = _make_tables(self)

    def initial(self, seeds: Sequence[int], maximum_velocity: float = 3.0) -> Tensor:
        r"""Random smooth flows, one a seed.

        White noise is weighted by a log-normal density of the wavenumber with its peak at 4,
        made free of divergence, and scaled to the given maximum speed. A seed gives the same
        flow at any position, in any batch, and (up to truncation) on any grid.

        Args:
            seeds: One seed a trajectory.
            maximum_velocity: Largest speed :math:`|u|` of each flow.

        Returns:
            The states, :math:`(B, m, n)`.

        Raises:
            ValueError: There is no seed.
        """
        if len(seeds) == 0:
            raise ValueError("expected at least one seed, found none")
        fields = torch.stack([random_flow(seed, maximum_velocity) for seed in seeds])
        return regrid(fields, self.grid).to(COMPLEX[self.dtype])

    def zeros(self, batch: int) -> Tensor:
        """States of fluid at rest, :math:`(B, m, n)`."""
        return torch.zeros(batch, self.modes, self.grid, dtype=COMPLEX[self.dtype])

    def laminar(self) -> Tensor:
        r"""The steady flow :math:`u = A \sin(k_f y) / (\mu + k_f^2 / Re)`, as a state (m, n).

        Raises:
            ValueError: There is neither drag nor viscosity to balance the forcing.
        """
        damping = self.drag + self.forcing_wavenumber**2 / self.reynolds
        if damping == 0:
            raise ValueError("no laminar flow: expected drag > 0 or a finite Reynolds number")
        return (_forcing(self) / damping).to(COMPLEX[self.dtype])

    def velocity(self, state: Tensor) -> Tensor:
        r"""Velocity on the grid.

        Args:
            state: Vorticity coefficients, :math:`(*, m, n)`.

        Returns:
            Channels :math:`(u, v)` at the cell centers, :math:`(*, 2, n, n)`.
        """
        self._check(state)
        velocity_hat = state.unsqueeze(-3) * self._tables.biot_savart
        return to_grid(velocity_hat, padded(velocity_hat))

    def vorticity(self, state: Tensor) -> Tensor:
        """Vorticity on the grid, :math:`(*, n, n)`."""
        self._check(state)
        return to_grid(state, padded(state))

    def state(self, vorticity: Tensor) -> Tensor:
        r"""State of a vorticity field given at the cell centers.

        Args:
            vorticity: Real field, :math:`(*, n, n)`. Its mean and its modes above
                :math:`(n - 1) / 3` are dropped.

        Returns:
            The coefficients, :math:`(*, m, n)`.
        """
        if vorticity.shape[-2:] != (self.grid, self.grid):
            expected = (self.grid, self.grid)
            raise ValueError(f"expected vorticity (*, {expected}), found {tuple(vorticity.shape)}")
        hat = to_modes(vorticity.to(self.dtype))
        return hat * (self._tables.kept / self.grid**2)

    def advection(self, state: Tensor) -> Tensor:
        r"""Coefficients of :math:`N(\omega) = -\nabla \cdot (u \omega)`, :math:`(*, m, n)`."""
        self._check(state)
        flat = state.reshape(-1, *state.shape[-2:])
        work = _Workspace.like(flat)
        self._advect(flat, work, out=work.a)
        return work.a.reshape(state.shape)

    def tendency(self, state: Tensor) -> Tensor:
        r"""Coefficients of :math:`\partial_t \omega`, all terms, :math:`(*, m, n)`."""
        linear, forcing = _linear(self), _forcing(self)
        return self.advection(state) + (linear * state + forcing).to(state.dtype)

    def step(self, state: Tensor) -> Tensor:
        """The state one ``dt`` later; the argument is left alone."""
        return self._run(state, 1)

    def advance(self, state: Tensor, time: float) -> Tensor:
        """The state ``time`` later; the argument is left alone.

        Args:
            state: Vorticity coefficients, :math:`(*, m, n)`.
            time: Time units, a whole number of steps.

        Returns:
            The new state, :math:`(*, m, n)`.

        Raises:
            ValueError: ``time`` is not a whole number of steps, or the state is another grid's.
            FloatingPointError: A trajectory left the finite numbers.
        """
        steps = round(time / self.dt)
        if steps < 0 or abs(steps * self.dt - time) > 1e-6 * self.dt * max(steps, 1):
            raise ValueError(f"expected a multiple of dt = {self.dt}, found time = {time}")
        return self._run(state, steps)

    def _run(self, state: Tensor, steps: int) -> Tensor:
        self._check(state)
        result = state.reshape(-1, *state.shape[-2:]).clone()
        _keep_freed_pages()
        work: _Workspace | None = None
        for start in range(0, len(result), self._chunk):
            chunk = result[start : start + self._chunk]  # stays in cache for all its steps
            if work is None or work.a.shape != chunk.shape:
                work = _Workspace.like(chunk)
            for _ in range(steps):
                self._step_(chunk, work)
        self._check_finite(result)
        return result.reshape(state.shape)

    def _step_(self, w: Tensor, work: "_Workspace") -> None:
        r"""One step in place, with :math:`E = e^{L dt / 2}` and :math:`g` what the forcing adds.

        .. math::
            w_1 &= E w + g, & w_2 &= E w_1 + g \\
            a &= N(w), & b &= N(w_1 + \tfrac{dt}{2} E a) \\
            c &= N(w_1 + \tfrac{dt}{2} b), & d &= N(w_2 + dt E c) \\
            w &\gets w_2 + \tfrac{dt}{6} (E^2 a + 2 E (b + c) + d) & &
        """
        t, r = self._tables, torch.view_as_real
        w1, w2, stage = r(work.w1), r(work.w2), r(work.stage)
        a, b, rw = r(work.a), r(work.b), r(w)
        torch.addcmul(t.kick, rw, t.decay, out=w1)
        torch.addcmul(t.kick, w1, t.decay, out=w2)
        self._advect(w, work, out=work.a)
        torch.addcmul(w1, a, t.half_decay, out=stage)
        torch.addcmul(w2, a, t.sixth_decay2, out=rw)
        self._advect(work.stage, work, out=work.a)
        torch.add(w1, a, alpha=self.dt / 2, out=stage)
        self._advect(work.stage, work, out=work.b)
        torch.addcmul(w2, b, t.full_decay, out=stage)
        rw.addcmul_(a.add_(b), t.third_decay)
        self._advect(work.stage, work, out=work.a)
        rw.add_(a, alpha=self.dt / 6)

    def _advect(self, w: Tensor, work: "_Workspace", out: Tensor) -> None:
        r"""Write :math:`(k_x^2 - k_y^2) \widehat{uv} - k_x k_y \widehat{u^2 - v^2}` to ``out``."""
        t = self._tables
        torch.mul(w, t.biot_savart.unsqueeze(1), out=work.velocity_hat)
        velocity = to_grid(work.velocity_hat, work.padded)
        torch.mul(velocity[0], velocity, out=work.products)  # u^2 and uv
        work.products[0].addcmul_(velocity[1], velocity[1], value=-1)
        hats = torch.view_as_real(to_modes(work.products))
        target = torch.view_as_real(out)
        torch.mul(hats[0], t.from_difference, out=target).addcmul_(hats[1], t.from_product)

    def _check(self, state: Tensor) -> None:
        expected, dtype = (self.modes, self.grid), COMPLEX[self.dtype]
        if state.shape[-2:] != expected or state.dtype != dtype:
            raise ValueError(
                f"expected a state (*, {expected[0]}, {expected[1]}) of {dtype}, found "
                f"{tuple(state.shape)} of {state.dtype}; make it with initial() or state()"
            )

    def _check_finite(self, states: Tensor) -> None:
        finite = torch.isfinite(torch.view_as_real(states).sum(dim=(-3, -2, -1)))
        if not finite.all():
            lost = (~finite).nonzero().flatten().tolist()
            raise FloatingPointError(
                f"expected finite states, found NaN or infinity in trajectories {lost}; "
                f"a smaller dt than {self.dt} may be needed"
            )


def _keep_freed_pages() -> None:
    """Free one large untouched block. The C library (glibc) takes its size as a sign that blocks up
    to it come and go, and keeps their pages; else the results of every transform may be given back
    and faulted in anew, which was seen to take four times the time of the arithmetic."""
    torch.empty(16 * 2**20, dtype=torch.uint8)


@dataclass(frozen=True)
class _Tables:
    """Factors of one solver. Real ones carry a last axis of 2, to act on real and imaginary parts
    at once: a product of a real and a complex tensor would convert the real one every time."""

    kept: Tensor  # (m, n) 1 where a mode is carried, else 0
    biot_savart: Tensor  # (2, m, n) complex, vorticity to (u, v)
    from_difference: Tensor  # (m, n, 2) -kx ky / n^2
    from_product: Tensor  # (m, n, 2) (kx^2 - ky^2) / n^2
    kick: Tensor  # (m, n, 2) what the forcing adds in dt / 2
    decay: Tensor  # (m, n, 2) E = exp(L dt / 2)
    half_decay: Tensor  # dt / 2 E
    full_decay: Tensor  # dt E
    third_decay: Tensor  # dt / 3 E
    sixth_decay2: Tensor  # dt / 6 E^2


@dataclass(frozen=True)
class _Workspace:
    """Buffers of one chunk of ``c`` trajectories."""

    velocity_hat: Tensor  # (2, c, m, n)
    padded: Tensor  # (2, c, n, n / 2 + 1), zero from column m on
    products: Tensor  # (2, c, n, n)
    a: Tensor  # this and the following: (c, m, n)
    b: Tensor
    w1: Tensor
    w2: Tensor
    stage: Tensor

    @classmethod
    def like(cls, w: Tensor) -> "_Workspace":
        n = w.shape[-1]
        velocity_hat = w.new_empty(2, *w.shape)
        products = torch.empty(2, len(w), n, n, dtype=w.real.dtype)
        rest = (torch.empty_like(w) for _ in range(5))
        return cls(velocity_hat, padded(velocity_hat), products, *rest)


def _make_tables(solver: KolmogorovSolver) -> _Tables:
    """All factors, computed in float64 and rounded once to the solver's precision."""
    n, dt = solver.grid, solver.dt
    kx, ky = wavenumbers(n)
    carried = kept(n)
    linear = _linear(solver)
    decay = torch.exp(linear * dt / 2)
    # (e^z - 1) / z -> 1: the forcing without drag and viscosity.
    growth = torch.where(linear == 0, dt / 2, torch.expm1(linear * dt / 2) / linear)
    inverse = carried / (kx**2 + ky**2).clamp(min=1)

    def both(factor: Tensor) -> Tensor:
        return factor.to(solver.dtype).unsqueeze(-1).repeat(1, 1, 2)

    return _Tables(
        kept=carried.to(solver.dtype),
        biot_savart=(1j * torch.stack((ky * inverse, -kx * inverse))).to(COMPLEX[solver.dtype]),
        from_difference=both(-kx * ky * carried / n**2),
        from_product=both((kx**2 - ky**2) * carried / n**2),
        kick=torch.view_as_real((_forcing(solver) * growth).to(COMPLEX[solver.dtype])),
        decay=both(decay * carried),
        half_decay=both(dt / 2 * decay),
        full_decay=both(dt * decay),
        third_decay=both(dt / 3 * decay),
        sixth_decay2=both(dt / 6 * decay**2),
    )


def _linear(solver: KolmogorovSolver) -> Tensor:
    kx, ky = wavenumbers(solver.grid)
    return -(kx**2 + ky**2) / solver.reynolds - solver.drag


def _forcing(solver: KolmogorovSolver) -> Tensor:
    r"""Coefficients of the curl of the forcing, :math:`-A k_f \cos(k_f y)`, as complex128."""
    k = solver.forcing_wavenumber
    hat = torch.zeros(solver.modes, solver.grid, dtype=torch.complex128)
    phase = torch.tensor(k * math.pi / solver.grid, dtype=torch.float64)  # first point: half a cell
    hat[0, k] = -solver.forcing_amplitude * k / 2 * torch.exp(1j * phase)
    hat[0, -k] = hat[0, k].conj()
    return hat


def _check_parameters(
    grid: int, reynolds: float, drag: float, forcing_wavenumber: int, dt: float, dtype: torch.dtype
) -> None:
    if grid < 8 or grid % 2:
        raise ValueError(f"expected an even grid of at least 8 points, found {grid}")
    if not reynolds > 0:
        raise ValueError(f"expected reynolds > 0, found {reynolds}")
    if not drag >= 0:
        raise ValueError(f"expected drag >= 0, found {drag}")
    if not 1 <= forcing_wavenumber <= (grid - 1) // 3:
        limit = (grid - 1) // 3
        raise ValueError(f"expected 1 <= forcing_wavenumber <= {limit}, found {forcing_wavenumber}")
    if not 0 < dt < math.inf:
        raise ValueError(f"expected a finite dt > 0, found {dt}")
    if dtype not in COMPLEX:
        raise ValueError(f"expected dtype torch.float32 or torch.float64, found {dtype}")
