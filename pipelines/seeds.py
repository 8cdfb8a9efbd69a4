"""Seeds that follow from one seed and a path of names, the same on every machine."""

import hashlib

import torch


def derived_seed(seed: int, *path: str | int) -> int:
    """A seed in [0, 2^63) for one purpose, e.g. ``derived_seed(0, "noise", member, step)``.

    Streams of different paths are independent, and none depends on how many others were drawn,
    so work can be resumed, split or repeated anywhere without changing a single draw. A number
    and its digits are one name.

    Raises:
        ValueError: A name holds a slash, so that two paths would be one.
    """
    if any("/" in str(name) for name in path):
        raise ValueError(f"a name in the path of a seed may hold no slash, found {path}")
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A torch generator on the CPU, seeded by :func:`derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, *path))
