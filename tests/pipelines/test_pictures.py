"""Pictures: what is kept is what was drawn, and any program can read it."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.pyplot import imread
from numpy.testing import assert_array_equal

from pipelines.pictures import Pixels, decode_png, encode_png, pixels

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(IMAGES)
def test_an_image_comes_back_as_it_was_and_others_read_the_same(image: Pixels) -> None:
    content = encode_png(image)
    assert_array_equal(decode_png(content), image)
    assert_array_equal(np.rint(imread(io.BytesIO(content), format="png") * 255), image)


def test_gray_and_floats_become_colors() -> None:
    gray = pixels("x", np.array([[0.0, 0.5], [2.0, np.nan]]))
    assert gray[:, :, 0].tolist() == [[0, 128], [255, 0]]
    assert_array_equal(gray[:, :, 0], gray[:, :, 2])


@pytest.mark.parametrize("shape", [(3,), (3, 4, 4), (0, 4), (2, 2, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image 'x': expected \(H, W\)"):
        pixels("x", np.zeros(shape))


def test_other_files_and_damaged_ones_are_refused() -> None:
    content = encode_png(np.zeros((4, 4, 3), np.uint8))
    for spoilt in (b"GIF89a" + content[6:], content[:20], content[:45] + b"\0" * 40, b""):
        with pytest.raises(ValueError, match="expected a PNG file"):
            decode_png(spoilt)
