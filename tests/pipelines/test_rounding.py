"""Rounding loses what was asked for and no more, and the store tells of it."""

from pathlib import Path

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipelines.ensemble import (
    ArraySpec,
    EnsembleError,
    collect,
    create_ensemble,
    read_layout,
    write_member,
)
from pipelines.ensemble.shards import rounded

MANTISSA = {"float16": 10, "float32": 23, "float64": 52}


@settings(deadline=None)  # a busy machine is no fault
@given(st.data(), st.sampled_from(sorted(MANTISSA)))
def test_rounding_is_to_the_nearest_and_done_once(data: st.DataObject, dtype: str) -> None:
    keep = data.draw(st.integers(1, MANTISSA[dtype] - 1))
    values = data.draw(arrays(dtype, array_shapes(min_dims=0, max_dims=3)))
    found = rounded(values, keep)
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert rounded(found, keep).tobytes() == found.tobytes()
    changed = found != values
    assert np.isfinite(values[changed & ~np.isnan(values)]).all()
    assert found[np.isnan(values)].tobytes() == values[np.isnan(values)].tobytes()
    fraction, _ = np.frexp(found[changed].astype("float64"))
    scaled = fraction * 2.0 ** (keep + 1)
    normal = np.abs(found[changed]) > np.finfo(dtype).smallest_normal
    assert (scaled == np.round(scaled))[normal].all()
    # Half of the last bit that is kept, at the exponent of the value before.
    wide = values[changed].astype("longdouble")
    unit = np.ldexp(np.longdouble(1), np.frexp(wide)[1] - 1 - keep)
    assert (np.abs(found[changed] - wide) <= unit / 2)[normal].all()


def test_a_tie_goes_to_the_even_number_and_the_largest_is_not_made_infinite() -> None:
    values = np.array([1.25, 1.75, -1.25, 0.0, -0.0, np.inf, np.finfo("float32").max], "float32")
    found = rounded(values, 1)
    np.testing.assert_array_equal(found, [1.0, 2.0, -1.0, 0.0, -0.0, np.inf, values[-1]])


def stored(run: Path, keep_bits: int | None, values: np.ndarray) -> Path:
    spec = ArraySpec("u", values.shape, ("x",), codec="lz4-bitshuffle", keep_bits=keep_bits)
    run.mkdir()
    create_ensemble(run / "e.zarr", 1, [spec], {"config_digest": "d"})
    write_member(run / "e.zarr", 0, {"u": values}, {"config_digest": "d"}, 1)
    collect(run / "e.zarr")
    return run / "e.zarr"


def test_rounding_is_only_where_it_was_asked_for_and_the_array_says_so(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(50_000).astype("float32")
    plain, lossy = stored(tmp_path / "plain", None, values), stored(tmp_path / "lossy", 12, values)
    with xarray.open_zarr(plain) as found:
        np.testing.assert_array_equal(found.u[0], values)
        assert "quantization_nsb" not in found.u.attrs
    with xarray.open_zarr(lossy) as found:
        np.testing.assert_array_equal(found.u[0], rounded(values, 12))
        assert found.u.attrs["quantization_nsb"] == 12
        assert np.abs(found.u[0] - values).max() <= 2**-12 * np.abs(values).max()
    assert read_layout(lossy).arrays["u"].keep_bits == 12
    sizes = [(path / "u/c.0.0").stat().st_size for path in (plain, lossy)]
    assert sizes[1] < 0.7 * sizes[0]
    # What rounds nothing is described as it always was, so older stores are still those planned.
    assert b"keep_bits" not in (plain / "zarr.json").read_bytes()


@pytest.mark.parametrize("keep_bits", [0, 23, -1])
def test_what_cannot_be_kept_is_refused(keep_bits: int) -> None:
    with pytest.raises(EnsembleError, match=r"keep_bits .* expected 1 to 22 of the 23 bits"):
        ArraySpec("u", (4,), ("x",), keep_bits=keep_bits)
