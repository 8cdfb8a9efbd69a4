r"""Circular 3 by 3 convolution in a quarter of the multiplications, for CPUs.

Winograd's minimal filtering F(4x4, 3x3): a tile of 4 by 4 outputs needs 6 by 6 inputs, and

.. math:: y = A^\top \big[ (G w G^\top) \odot (B^\top d\, B) \big] A

turns the convolution into 36 matrix products over channels. Both transforms are sums of a few
slices. They run chunk by chunk, so that a chunk stays in the cache between its transforms and
its products, and the circular padding is part of the tiling. The backward pass is the adjoint of
each factor in turn.

In float32 the result differs from a direct convolution by some 1e-6 of its scale.

References:
    Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TILE = 4
_CHUNK_TILES, _CHUNK_VALUES = 256, 256 * 96
"""Tiles, and tiles times channels, that are transformed together: at least so many, to give the
products enough rows and the calls enough work; not many more, so that they stay in the cache."""

_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def _transform_matrix(like: Tensor) -> Tensor:
    """The map from 9 filter taps to 36 products, (36, 9)."""
    g = torch.tensor(_G, dtype=torch.float64)
    return torch.kron(g, g).to(like)


def filter_transform(weight: Tensor) -> Tensor:
    """Filters (C_out, C_in, 3, 3) as 36 matrices (36, C_in, C_out)."""
    outputs, inputs = weight.shape[:2]
    # Products are indexed (column, row), as the input transform leaves them.
    taps = weight.permute(3, 2, 1, 0).reshape(9, inputs * outputs)
    return (_transform_matrix(taps) @ taps).reshape(36, inputs, outputs)


def filter_adjoint(products: Tensor) -> Tensor:
    """Gradient of the filters (C_out, C_in, 3, 3) from that of the 36 matrices."""
    _, inputs, outputs = products.shape
    taps = _transform_matrix(products).T @ products.reshape(36, inputs * outputs)
    return taps.reshape(3, 3, inputs, outputs).permute(3, 2, 1, 0)


def _input_combinations(d: list[Tensor], out: Tensor) -> None:
    """Rows of B^T applied to six slices."""
    torch.sub(d[4], d[2], alpha=5, out=out[0]).add_(d[0], alpha=4)
    torch.sub(d[5], d[3], alpha=5, out=out[5]).add_(d[1], alpha=4)
    even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])


def _input_adjoint(v: Tensor) -> list[Tensor]:
    """Columns of B^T applied to six slices of a gradient."""
    p, r = v[1] + v[2], v[1] - v[2]
    q, s = v[3] + v[4], v[3] - v[4]
    d2 = torch.add(q, v[0], alpha=5).add_(p, alpha=4).neg_()
    d4 = p.add_(q).add_(v[0])
    d3 = torch.add(r, s, alpha=2).sub_(v[5], alpha=5)
    d1 = torch.sub(v[5], r, out=r).mul_(4).sub_(s, alpha=2)
    return [v[0] * 4, d1, d2, d3, d4, v[5]]


def _output_combinations(m: Tensor, out: list[Tensor]) -> None:
    """Rows of A^T applied to six slices."""
    near, far = m[1] + m[2], m[3] + m[4]
    torch.add(near, far, alpha=4, out=out[2])
    torch.add(near.add_(m[0]), far, out=out[0])
    torch.sub(m[1], m[2], out=near)
    torch.sub(m[3], m[4], out=far)
    torch.add(near, far, alpha=2, out=out[1])
    torch.add(near.add_(m[5]), far, alpha=8, out=out[3])


def _output_adjoint(y: list[Tensor], out: Tensor) -> None:
    """Columns of A^T applied to four slices of a gradient."""
    out[0].copy_(y[0])
    out[5].copy_(y[3])
    even, odd = y[0] + y[2], y[1] + y[3]
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.add(y[0], y[2], alpha=4, out=even)
    torch.add(y[1], y[3], alpha=4, out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])


def _tiles(x: Tensor) -> Tensor:
    """Fields (b, H, W, C) padded circularly, columns split by phase: (b, H + 2, 4, W/4 + 1, C).

    Padded column 4 i + a lies at [a, i], so that each of the six columns of all the tiles of a
    row is one contiguous slice.
    """
    b, h, w, c = x.shape
    n = w // TILE
    columns = x.reshape(b, h, n, TILE, c).transpose(2, 3)
    padded = x.new_empty(b, h + 2, TILE, n + 1, c)
    body = padded[:, 1:-1]
    body[:, :, 1:, :n] = columns[:, :, :3]
    body[:, :, 0, 1:] = columns[:, :, 3]
    body[:, :, 0, 0] = columns[:, :, 3, -1]
    body[:, :, 1, n] = columns[:, :, 0, 0]
    body[:, :, 2:, n] = 0  # never read, yet transformed along rows
    padded[:, 0], padded[:, -1] = padded[:, h], padded[:, 1]
    return padded


def input_transform(x: Tensor) -> Tensor:
    """B^T d B of every tile: fields (b, H, W, C) to (36, b H/4 W/4, C)."""
    b, h, w, c = x.shape
    rows, n = h // TILE, w // TILE
    padded = _tiles(x)
    stop = TILE * (rows - 1) + 1
    by_row = x.new_empty(6, b, rows, TILE, n + 1, c)
    _input_combinations([padded[:, a : a + stop : TILE] for a in range(6)], by_row)
    inner = [by_row[:, :, :, a, :n] for a in range(TILE)]
    outer = [by_row[:, :, :, a, 1:] for a in range(2)]
    result = x.new_empty(6, 6, b, rows, n, c)
    _input_combinations(inner + outer, result)
    return result.view(36, b * rows * n, c)


def _fold(d: list[Tensor], dim: int) -> list[Tensor]:
    """Add what two neighboring tiles share (last two of six slices onto the first two)."""
    n = d[0].shape[dim]
    for shared, own in ((d[4], d[0]), (d[5], d[1])):
        own.narrow(dim, 1, n - 1).add_(shared.narrow(dim, 0, n - 1))
        own.narrow(dim, 0, 1).add_(shared.narrow(dim, n - 1, 1))
    return d[:TILE]


def input_adjoint(v: Tensor, x: Tensor) -> None:
    """Adjoint of :func:`input_transform`: writes the gradient of the fields into x."""
    b, h, w, c = x.shape
    rows, n = h // TILE, w // TILE
    v = v.view(6, 6, b, rows, n, c)
    by_column = _fold(_input_adjoint(v), dim=3)
    target = x.view(b, rows, TILE, n, TILE, c)
    for a, column in enumerate(by_column):
        for r, field in enumerate(_fold(_input_adjoint(column), dim=1)):
            # Slice a of tile i lies at 4 i + a - 1, so that slice 0 belongs to the tile before.
            shifts = [-1 if a == 0 else 0, -1 if r == 0 else 0]
            place = target[:, :, (r - 1) % TILE, :, (a - 1) % TILE]
            _copy_rolled(field, place, *shifts)


def _copy_rolled(source: Tensor, target: Tensor, columns: int, rows: int) -> None:
    """Copy tiles (b, rows, n, C), rolled by one back along the columns, the rows, or both."""
    if columns:
        _copy_rolled(source[:, :, 1:], target[:, :, :-1], 0, rows)
        _copy_rolled(source[:, :, :1], target[:, :, -1:], 0, rows)
    elif rows:
        target[:, :-1], target[:, -1] = source[:, 1:], source[:, 0]
    else:
        target.copy_(source)


def output_transform(m: Tensor, y: Tensor) -> None:
    """A^T m A of every tile: products (36, tiles, C) written into fields y (b, H, W, C)."""
    b, h, w, c = y.shape
    rows, n = h // TILE, w // TILE
    m = m.view(6, 6, b, rows, n, c)
    by_column = y.new_empty(TILE, 6, b, rows, n, c)
    _output_combinations(m, list(by_column))
    target = y.view(b, rows, TILE, n, TILE, c).permute(2, 4, 0, 1, 3, 5)
    _output_combinations(by_column.transpose(0, 1), list(target))


def output_adjoint(y: Tensor) -> Tensor:
    """Adjoint of :func:`output_transform`: fields (b, H, W, C) to products (36, tiles, C)."""
    b, h, w, c = y.shape
    rows, n = h // TILE, w // TILE
    source = y.reshape(b, rows, TILE, n, TILE, c).permute(4, 2, 0, 1, 3, 5)
    by_column = y.new_empty(6, TILE, b, rows, n, c)
    _output_adjoint(list(source), by_column)
    result = y.new_empty(6, 6, b, rows, n, c)
    _output_adjoint(list(by_column.transpose(0, 1)), result.transpose(0, 1))
    return result.view(36, b * rows * n, c)


def _chunks(x: Tensor, outputs: int) -> list[slice]:
    batch, h, w, inputs = x.shape
    tiles = max(_CHUNK_TILES, _CHUNK_VALUES // max(inputs, outputs))
    size = max(1, tiles * TILE**2 // (h * w))
    return [slice(i, min(i + size, batch)) for i in range(0, batch, size)]


class _Winograd(torch.autograd.Function):
    """The convolution on fields (B, H, W, C), contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        filters = filter_transform(weight)
        ctx.save_for_backward(x, filters)
        y = x.new_empty(*x.shape[:3], weight.shape[0])
        for chunk in _chunks(x, weight.shape[0]):
            m = torch.bmm(input_transform(x[chunk]), filters)
            m[7] += bias  # the product whose inverse transform is one everywhere in the tile
            output_transform(m, y[chunk])
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, filters = ctx.saved_tensors
        dy = dy.contiguous()
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        products = torch.zeros_like(filters) if ctx.needs_input_grad[1] else None
        for chunk in _chunks(x, dy.shape[-1]):
            dm = output_adjoint(dy[chunk])
            if products is not None:
                products.baddbmm_(input_transform(x[chunk]).mT, dm)
            if dx is not None:
                input_adjoint(torch.bmm(dm, filters.mT), dx[chunk])
        dweight = None if products is None else filter_adjoint(products)
        dbias = dy.sum(dim=(0, 1, 2)) if ctx.needs_input_grad[2] else None
        return dx, dweight, dbias


def winograd_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Circular convolution of periodic fields with 3 by 3 filters, stride 1.

    Args:
        x: Fields, (B, C_in, H, W), H and W multiples of 4, best in channels-last memory.
        weight: Filters, (C_out, C_in, 3, 3).
        bias: (C_out).

    Returns:
        Fields (B, C_out, H, W) in channels-last memory. Differentiable once.
    """
    convolve: Callable[[Tensor, Tensor, Tensor], Tensor] = _Winograd.apply
    return convolve(x.permute(0, 2, 3, 1).contiguous(), weight, bias).permute(0, 3, 1, 2)
