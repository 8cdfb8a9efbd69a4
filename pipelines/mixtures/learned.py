"""Learned refiners: the one in the package, and files of others."""

from functools import lru_cache
from pathlib import Path

import torch

from kernels.gmm import Gridded, Mixture
from kernels.gmm.inference import CompiledRefiner, infer
from kernels.gmm.refiner import Refiner, RefinerConfig

#: The refiner that comes with the package; docs/gmm.md has the command that made it.
SHIPPED = Path(__file__).with_name("refiner.pt")


class ModelError(Exception):
    """A model that is not there, or whose file is not one."""


def load_refiner(model: str | Path) -> CompiledRefiner:
    """Load a refiner, once a process for each file.

    Args:
        model: ``"shipped"``, or a file as ``yaoki run gmm`` exports it.

    Raises:
        ModelError: It is not there, or cannot be read.
    """
    path = SHIPPED if model == "shipped" else Path(model).absolute()
    if not path.is_file():
        hint = (
            "this installation has none; fit without a model"
            if model == "shipped"
            else ("expected the file refiner.pt of a run of 'yaoki run gmm'")
        )
        raise ModelError(f"{path}: no such model; {hint}")
    return _loaded(path, path.stat().st_mtime_ns)


def refine(refiner: Refiner | CompiledRefiner, gridded: Gridded, components: int) -> Mixture:
    """The refiner's fits, (B, K)."""
    return infer(refiner, gridded, components)


@lru_cache(maxsize=4)
def _loaded(path: Path, written: int) -> CompiledRefiner:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        refiner = Refiner(RefinerConfig(**found["config"]))
        refiner.load_state_dict(found["weights"])
        return CompiledRefiner.of(refiner)
    except Exception as error:  # whatever torch, pickle or the dictionary makes of a foreign file
        raise ModelError(f"{path}: no model of this version ({error}); export it again") from error
