"""The members of an ensemble at a stretch of points at a time: what all statistics are made of."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np

from pipelines.ensemble import ArraySpec, EnsembleError, Layout
from pipelines.ensemble.documents import reported
from pipelines.ensemble.reading import MemberChunks
from pipelines.statistics.fields import Fields
from pipelines.statistics.points import Array, quantiles_of_sorted
from pipelines.statistics.scores import Scores

#: At the peak: values as stored, sorted, in float64, and two differences of them.
_BYTES_A_VALUE = 32


class Sliceable(Protocol):
    """What can be sliced like an array: NumPy's, Zarr's, h5py's."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


def valid_members(layout: Layout) -> list[int]:
    """The members that ``collect`` found whole.

    Raises:
        EnsembleError: There are none.
    """
    mask = layout.path / "valid" / "c.0"
    members = []
    if mask.exists():
        with reported(f"reading {mask}"):
            members = np.flatnonzero(np.frombuffer(mask.read_bytes(), bool)).tolist()
    if not members:
        raise EnsembleError(f"{layout.path}: no member is marked valid: collect the ensemble first")
    return [int(member) for member in members]


def check_truth(layout: Layout, truth: Mapping[str, Sliceable]) -> None:
    """Refuse a truth of another shape than a member's, or of no array.

    Raises:
        EnsembleError: It is such a one.
    """
    for name, values in truth.items():
        expected = layout.arrays[name].shape if name in layout.arrays else None
        if expected is None or tuple(values.shape) != expected:
            raise EnsembleError(
                f"{layout.path}: truth {name} of shape {tuple(values.shape)}: expected "
                f"{expected or f'one of the arrays {sorted(layout.arrays)}'}"
            )


class Pass:
    """One reading of all members.

    Args:
        layout: The ensemble.
        members: Indices of those that count.
        truth: By array; see :func:`check_truth`.
        levels: Of quantiles, (Q).
        memory: Bytes for a stretch.
        progress: Called with the number of chunks done and of all.
    """

    def __init__(
        self,
        layout: Layout,
        members: Sequence[int],
        truth: Mapping[str, Sliceable],
        levels: Array,
        memory: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._layout, self._members, self._truth, self._levels = layout, members, truth, levels
        self._block = max(1, memory // (_BYTES_A_VALUE * (len(members) + len(levels))))
        self._done, self._progress = 0, progress
        self._of = sum(prod(s.shape) // prod(s.inner) for s in layout.arrays.values())

    def over(self, spec: ArraySpec, fields: Fields) -> Scores:
        """Read an array; ``fields`` takes what each point has, the result is of all points."""
        chunks = MemberChunks(self._layout, spec, self._members)
        truth = self._truth.get(spec.name)
        scores = Scores(len(self._members), truth is not None)
        for number, place in chunks:
            known = None if truth is None else np.asarray(truth[place], np.float64).reshape(-1)
            rows = self._chunk(chunks, number, known, scores)
            fields.put(number, place, rows, known)
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._of)
        return scores

    def _chunk(
        self, chunks: MemberChunks, number: int, truth: Array | None, scores: Scores
    ) -> Array:
        rows = np.empty((2 + len(self._levels), chunks.points))
        # By chunk, so that how ties are broken does not depend on the memory that there is.
        draws = np.random.default_rng(number).random(chunks.points)
        for start in range(0, chunks.points, self._block):
            here = slice(start, min(start + self._block, chunks.points))
            members = _ascending(chunks, number, here)
            rows[:, here] = _rows(members, self._levels)
            y = None if truth is None else truth[here]
            scores.add(members, rows[0, here], rows[1, here], y, draws[here])
        return rows


def _ascending(chunks: MemberChunks, number: int, here: slice) -> Array:
    """Points and their members in order, (points, members)."""
    values = np.ascontiguousarray(chunks.read(number, here.start, here.stop).T)
    values.sort(axis=-1)
    return values.astype(np.float64)


def _rows(members: Array, levels: Array) -> Array:
    with np.errstate(invalid="ignore"):  # infinity less infinity is the NaN that it should be
        mean = members.mean(axis=-1)
        spread = members.std(axis=-1, ddof=min(1, members.shape[-1] - 1))
        return np.stack([mean, spread, *quantiles_of_sorted(members, levels)])
