"""Pictures of a log: pixels, and the PNG files (ISO/IEC 15948) that keep them."""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = (8, 2, 0, 0, 0)  # bits, color type, and the only methods there are


def pixels(name: str, image: NDArray[Any]) -> Pixels:
    """Eight-bit colors of an image.

    Args:
        name: What an error calls it.
        image: :math:`(H, W)` or :math:`(H, W, 3)`, either uint8 or floats in [0, 1].

    Returns:
        The same, :math:`(H, W, 3)`.

    Raises:
        ValueError: If the array has another shape.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image {name!r}: expected (H, W) or (H, W, 3), found {image.shape}")
    if image.dtype == np.uint8:
        return image
    return np.asarray(np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255), dtype=np.uint8)


def encode_png(image: Pixels) -> bytes:
    """The PNG file of an image, :math:`(H, W, 3)`; equal images give equal bytes."""
    height, width, _ = image.shape
    # Each line starts with the number of its filter: none, so that reading stays as simple.
    lines = np.zeros((height, 1 + 3 * width), np.uint8)
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">II5B", width, height, *_RGB)
    data = zlib.compress(lines.tobytes())
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def decode_png(content: bytes) -> Pixels:
    """The image of a file that :func:`encode_png` wrote, :math:`(H, W, 3)`.

    Raises:
        ValueError: It is another kind of file, or damaged.
    """
    try:
        width, height, *form = struct.unpack(">II5B", content[16:29])
        size = int.from_bytes(content[33:37], "big")
        lines = np.frombuffer(zlib.decompress(content[41 : 41 + size]), np.uint8)
        image = lines.reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)
    except (struct.error, zlib.error, ValueError) as error:
        raise ValueError(f"expected a PNG file, found a damaged one: {error}") from error
    if not content.startswith(_SIGNATURE) or tuple(form) != _RGB:
        raise ValueError("expected a PNG file as the metrics log keeps them, found another file")
    return image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
