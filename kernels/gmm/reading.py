"""Reading of gridded densities: cell masses of good rows, bad ones kept apart."""

from typing import Literal, get_args

import torch
from torch import Tensor

from kernels.gmm.findings import Findings
from kernels.gmm.gridded import Gridded, Kind, as_array

Policy = Literal["report", "drop", "replace"]


def read_gridded(
    values: Tensor, grid: Tensor, kind: Kind, policy: Policy = "report"
) -> tuple[Gridded, Findings]:
    """Cell masses of gridded densities, bad rows kept apart.

    Args:
        values: Densities at the points, probabilities of the cells, or counts, (B, N).
        grid: Points, (N) or (B, N), or edges, (N+1) or (B, N+1), increasing. Densities need
            points; a cell reaches half way to the next point.
        kind: What the values are.
        policy: What becomes of a bad row: ``report`` makes its masses NaN, and so what is fitted
            to it; ``drop`` leaves it out; ``replace`` cuts what is negative to zero, and puts a
            uniform density in place of a row without finite mass.

    Returns:
        The masses in float64, and what was found.

    Raises:
        ValueError: Shapes that do not fit, a grid that does not increase, an unknown kind.
    """
    # Here, because the import of the compiler takes a second.
    from kernels.gmm.fused_reading import read_rows

    if kind not in get_args(Kind) or policy not in get_args(Policy):
        raise ValueError(f"kind is one of {get_args(Kind)}, policy of {get_args(Policy)}")
    given, places = as_array(values), as_array(grid)
    places = places[None] if places.ndim == 1 else places
    _check_shapes(given.shape, places.shape, kind)
    points, summed = kind == "point_density", kind == "cell_mass"
    found = read_rows(given, places, points, summed, policy == "report")
    masses, edges, flags = (torch.from_numpy(array).to(values.device) for array in found)
    findings = Findings(flags, torch.arange(len(flags), device=values.device))
    gridded = Gridded(masses, edges, kind)
    if policy == "drop":
        findings = findings._replace(kept=(~findings.bad).nonzero().squeeze(-1))
        gridded = gridded.rows(findings.kept)
    return gridded, findings


def _check_shapes(values: tuple[int, ...], grid: tuple[int, ...], kind: Kind) -> None:
    allowed = {values[-1]} | (set() if kind == "point_density" else {values[-1] + 1})
    if len(values) != 2 or grid[-1] not in allowed or grid[0] not in (1, values[0]):
        raise ValueError(
            f"{kind} values are (B, N), found {values}; the grid has a last axis of "
            f"{sorted(allowed)} and one row or B, found {grid}"
        )
    if values[1] < 3:
        raise ValueError(f"a grid needs at least 3 cells, found {values[1]}")
