"""When leaves come and go: the daily rates of leaf onset and leaf fall of DALEC-CDEA.

Source: Bloom & Williams (2015), appendix A, doi 10.5194/bg-12-1299-2015.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SEASON = 365.25 / np.pi
# A year in which the labile pool empties to a thousandth, written as a lifespan.
LABILE_LIFESPAN = 1.001
# The offset between the day of a parameter and the peak of its rate, a sextic in log(L - 1).
_OFFSET = np.array(
    [
        0.000023599784710,
        0.000332730053021,
        0.000901865258885,
        -0.005437736864888,
        -0.020836027517787,
        0.126972018064287,
        -0.188459767342504,
    ]
)


def seasonal_rate(day: Array, peak: Array, length: Array, lifespan: ArrayLike) -> Array:
    r"""Fraction of a pool that leaves it on a day, once a year around ``peak``.

    .. math:: \Phi(t) = \sqrt{\frac{2}{\pi}}\,\frac{-\ln(1 - 1/L)}{r}
        \exp\left(-\left[\frac{\sqrt 2\,s}{r}\sin\frac{t - d + \psi(L)}{s}\right]^2\right),
        \quad s = \frac{365.25}{\pi}

    Args:
        day: Day of the year.
        peak: The day :math:`d` of the parameter.
        length: How long the season lasts, :math:`r`, days.
        lifespan: :math:`L`, years, above one; ``LABILE_LIFESPAN`` for the onset of leaves.

    Returns:
        The rate, d-1, of the shape that the arguments broadcast to.
    """
    width = length / np.sqrt(2)
    # log1p: the deciduous end of the range lies at one, where the plain difference cancels.
    magnitude = -np.log1p(-1 / np.asarray(lifespan, np.float64))
    offset = np.polyval(_OFFSET, np.log(np.asarray(lifespan) - 1)) * width
    phase = np.sin((day - peak + offset) / _SEASON) * _SEASON / width
    return np.asarray(np.sqrt(2 / np.pi) * magnitude / length * np.exp(-(phase**2)))
