"""What can be wrong with a row of gridded densities, and how it is told."""

from typing import NamedTuple

from torch import Tensor

#: Rows of which less than this fraction is negative are rounding errors: cut to zero.
NEGATIVE_TOLERANCE = 1e-6
#: Rows of cell masses that are further than this from a sum of one are reported.
SUM_TOLERANCE = 1e-3
#: Greatest second difference of the masses that a grid resolves: a peak of 0.6 to 0.9 cells.
ROUGHNESS = 0.4

#: Bits of ``Findings.flags``.
NOT_FINITE, NEGATIVE, EMPTY, NOT_NORMALIZED, UNRESOLVED = 1, 2, 4, 8, 16


class Findings(NamedTuple):
    """What was found wrong.

    Attributes:
        flags: Bits for each row that was given, (B,), uint8.
        kept: Index of the rows that are in the result.
    """

    flags: Tensor
    kept: Tensor

    @property
    def not_finite(self) -> Tensor:
        """Rows that hold NaN or infinity, (B,)."""
        return self.flags & NOT_FINITE > 0

    @property
    def negative(self) -> Tensor:
        """Of which more than ``NEGATIVE_TOLERANCE`` is negative."""
        return self.flags & NEGATIVE > 0

    @property
    def empty(self) -> Tensor:
        """That have no mass."""
        return self.flags & EMPTY > 0

    @property
    def not_normalized(self) -> Tensor:
        """Of cell masses that do not sum to one; used all the same."""
        return self.flags & NOT_NORMALIZED > 0

    @property
    def unresolved(self) -> Tensor:
        """That have a peak narrower than the grid can show; used all the same."""
        return self.flags & UNRESOLVED > 0

    @property
    def bad(self) -> Tensor:
        """Rows that cannot be fitted as they are."""
        return self.flags & (NOT_FINITE | NEGATIVE | EMPTY) > 0
