"""The campaign's work under Lightning, with its automatic requeue on Slurm."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.faults.scene import Scene
from benchmarks.faults.work import (
    Terms,
    batch,
    network,
    optimizer_of,
    refuse_memory_once,
    seed_everything,
    squared_error,
)
from cluster.checkpoints import random_state


class Module(pl.LightningModule):
    """The same training as the others'.

    Lightning keeps weights, optimizer and step; the hooks add losses and generators. Inputs
    follow from the step, so the loader, which Lightning starts over in the middle of an epoch,
    has nothing to lose.
    """

    def __init__(self, member: int, pace: float, scene: Scene) -> None:
        super().__init__()
        self.member, self.pace, self.scene = member, pace, scene
        self.model = network()
        self.losses: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.model)

    def on_train_start(self) -> None:
        self.scene.begin(self.global_step)

    def training_step(self, _: object, __: int) -> torch.Tensor:
        self.scene.obey(lambda: refuse_memory_once(self.model))
        self.begun = time.monotonic()
        loss = squared_error(self.model, batch(self.member, self.global_step))
        self.losses.append(loss.item())
        return loss

    def on_after_backward(self) -> None:
        time.sleep(max(0.0, self.begun + self.pace - time.monotonic()))

    def on_train_batch_end(self, *_: object) -> None:
        self.scene.did(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"], checkpoint["random"] = list(self.losses), random_state.capture()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses, self.random = list(checkpoint["losses"]), checkpoint["random"]

    def on_train_batch_start(self, *_: object) -> None:
        # Only now: Lightning itself draws between the loading and the first step.
        state, self.random = getattr(self, "random", None), None
        if state is not None:
            random_state.restore(state)


def newest(folder: Path) -> Path | None:
    """The last periodic checkpoint or that of a requeue, whichever is newer."""
    files = [*folder.rglob("*.ckpt")]
    return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)


def train(options: argparse.Namespace) -> None:
    seed_everything(options.member)
    module = Module(options.member, options.pace, Scene(options.scene, options.memory))
    saves = ModelCheckpoint(
        options.folder / "periodic", every_n_train_steps=options.save_every, save_last=True
    )
    requeue = SLURMEnvironment(auto_requeue=True, requeue_signal=signal.SIGUSR2)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=options.steps,
        default_root_dir=options.folder,
        plugins=[requeue if SLURMEnvironment.detect() else LightningEnvironment()],
        callbacks=[saves],
        deterministic=True,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(torch.arange(options.steps)))
    trainer.fit(module, loader, ckpt_path=newest(options.folder), weights_only=False)
    if trainer.global_step == options.steps:
        module.scene.finish(final_state(module))


def final_state(module: Module) -> dict[str, Any]:
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return {
        "model": module.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": module.losses,
        "random": random_state.capture(),
    }


class Lightning:
    """A batch script as in Lightning's docs, sent as an array."""

    name = "lightning"

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.folder = terms.root / self.name
        self.array = ""

    def disk(self, member: int) -> Path:
        return self.folder / "checkpoints" / f"{member:02d}"

    def submit(self) -> None:
        terms = self.terms
        options = {
            "array": f"0-{terms.members - 1}",
            "requeue": "",
            "open-mode": "append",
            "output": f"{self.folder}/slurm-%a.log",
            "signal": f"USR2@{terms.signal_delay}",
            "time": f"{terms.minutes}",
            "mem": f"{terms.memory}",
            "cpus-per-task": f"{terms.cpus}",
            "partition": "gpu",
        }
        lines = [f"#SBATCH --{name}={value}".removesuffix("=") for name, value in options.items()]
        step = f"srun --cpus-per-task={terms.cpus} {shlex.join(self._command())}"
        where = f"{self.folder}/checkpoints/$N --scene {self.folder}/scenes/$N"
        number = "N=$(printf %02d $SLURM_ARRAY_TASK_ID)"
        member = "--member $SLURM_ARRAY_TASK_ID"
        script = self.folder / "train.sh"
        body = [number, f"{step} {where} {member}"]
        script.write_text("\n".join(["#!/bin/bash", *lines, *body]) + "\n")
        sent = subprocess.run(
            ["sbatch", "--parsable", str(script)], check=True, capture_output=True, text=True
        )
        self.array = sent.stdout.strip()

    def job(self, member: int) -> str:
        return f"{self.array}_{member}"

    def done(self, member: int) -> bool:
        return False  # there is no program that waits

    def start_again(self, member: int) -> bool:
        return False

    def _command(self) -> list[str]:
        terms = self.terms
        numbers = {
            "steps": terms.steps,
            "pace": terms.pace,
            "save-every": terms.save_every,
            "memory": terms.memory,
        }
        given = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
        return [sys.executable, "-m", "benchmarks.faults.with_lightning", *given]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scene", type=Path)
    parser.add_argument("--member", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--save-every", type=int, default=20)
    parser.add_argument("--memory", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    os.umask(0o022)
    main()
