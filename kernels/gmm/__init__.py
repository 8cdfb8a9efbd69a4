"""Fitting gridded densities by one-dimensional Gaussian mixtures."""

from kernels.gmm.descent import Descent, Method, descend
from kernels.gmm.em import (
    SigmaBounds,
    cell_responsibilities,
    em_step_cells,
    em_step_points,
    responsibilities,
    sigma_bounds,
)
from kernels.gmm.findings import Findings
from kernels.gmm.gridded import (
    Gridded,
    Kind,
    Standardization,
    cross_entropy,
    gridded_moments,
    kl_divergence,
)
from kernels.gmm.mixture import (
    Mixture,
    Moments,
    cdf,
    log_cell_masses,
    log_component_masses,
    log_density,
    moments,
    quantile,
    survival,
)
from kernels.gmm.reading import Policy, read_gridded
from kernels.gmm.solve import Fit, solve
from kernels.gmm.start import gridded_quantile, quantile_start

__all__ = [
    "Descent",
    "Findings",
    "Fit",
    "Gridded",
    "Kind",
    "Method",
    "Mixture",
    "Moments",
    "Policy",
    "SigmaBounds",
    "Standardization",
    "cdf",
    "cell_responsibilities",
    "cross_entropy",
    "descend",
    "em_step_cells",
    "em_step_points",
    "gridded_moments",
    "gridded_quantile",
    "kl_divergence",
    "log_cell_masses",
    "log_component_masses",
    "log_density",
    "moments",
    "quantile",
    "quantile_start",
    "read_gridded",
    "responsibilities",
    "sigma_bounds",
    "solve",
    "survival",
]
