"""Time of every LSTM variant against torch's own LSTM, in one run.

    python -m benchmarks.lstm                 # the tables, some five minutes
    python -m benchmarks.lstm --compiled      # the compiled chunks instead; long first calls

One thread, and two for free runs, with the allocator settings that the launcher gives to members
(the process starts itself again under them). Contenders take turns and the median is printed, of
wall and of processor time; the machine's load before and after is printed with it.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cluster.environment import ALLOCATOR
from kernels.lstm import Engine, LSTMSettings, StaticDynamicLSTM

BATCH, STEPS, HIDDEN, DYNAMIC, STATIC, OUTPUTS, EMBEDDING = 64, 365, 128, 8, 8, 4, 16


@dataclass
class Contender:
    """What to time, and how often it took how long."""

    name: str
    call: Callable[[], object]
    first: tuple[float, float] = (0.0, 0.0)
    samples: list[tuple[float, float]] = field(default_factory=list)

    def sample(self) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        self.call()
        self.samples.append((time.perf_counter() - wall, time.process_time() - processor))

    def warm(self) -> None:
        wall, processor = time.perf_counter(), _with_children()
        self.call()
        self.first = time.perf_counter() - wall, _with_children() - processor

    def cost(self, clock: int) -> float:
        """Median milliseconds a call: wall (0) or processor (1)."""
        return 1e3 * statistics.median(pair[clock] for pair in self.samples)


def _with_children() -> float:
    """Processor seconds of this process and of the compilers that it waited for."""
    return sum(os.times()[:4])


class Plain(nn.Module):
    """torch's LSTM with a linear head: the unit of all ratios."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(DYNAMIC, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.lstm(x)[0])
        return result


class Loop(nn.Module):
    """A free run as it is usually written: torch's LSTM called for one step at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(DYNAMIC + OUTPUTS + EMBEDDING, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: Tensor, static: Tensor) -> Tensor:
        state, y = None, x.new_zeros(len(x), 1, OUTPUTS)
        outputs = []
        for row in torch.split(x, 1, dim=1):
            hidden, state = self.lstm(torch.cat((row, y, static), dim=-1), state)
            y = self.head(hidden)
            outputs.append(y)
        return torch.cat(outputs, dim=1)


def train(call: Callable[[], Tensor]) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        torch.autograd.backward(call().square().mean())

    return run


def plain(steps: int) -> Contender:
    x, model = torch.randn(BATCH, steps, DYNAMIC), Plain()
    return Contender("nn.LSTM + linear head", train(lambda: model(x)))


def ours(
    name: str,
    *,
    steps: int = STEPS,
    context: int = 0,
    engine: Engine | None = None,
    training: bool = True,
    **choices: Any,
) -> Contender:
    """A whole model: static network, recurrence, head."""
    sizes: dict[str, Any] = {"hidden": HIDDEN, "embedding": EMBEDDING}
    settings = LSTMSettings(DYNAMIC, STATIC, OUTPUTS, **sizes | choices)
    model = StaticDynamicLSTM(settings)
    past, future = torch.randn(BATCH, context, DYNAMIC), torch.randn(BATCH, steps, DYNAMIC)
    statics = torch.randn(BATCH, STATIC)
    heard = torch.randn(BATCH, context, OUTPUTS) if context else None

    def predict() -> Tensor:
        prediction = model(past, statics, future, past_target=heard, engine=engine)
        outputs: Tensor = prediction.outputs
        return outputs

    return Contender(name, train(predict) if training else torch.no_grad()(predict))


def table(title: str, contenders: list[Contender], rounds: int) -> None:
    """Time the contenders in turns; ratios are to the first one, of wall time with threads."""
    for contender in contenders:
        contender.warm()
    for _ in range(rounds):
        for contender in contenders:
            contender.sample()
    print(f"\n{title}\n{'':44}{'wall ms':>9}{'cpu ms':>9}{'ratio':>7}{'first s':>9}{'cpu s':>8}")
    clock = 1 if torch.get_num_threads() == 1 else 0
    for c in contenders:
        ratio = c.cost(clock) / contenders[0].cost(clock)
        times = f"{c.cost(0):9.1f}{c.cost(1):9.1f}{ratio:7.2f}{c.first[0]:9.2f}{c.first[1]:8.2f}"
        print(f"{c.name:44}{times}", flush=True)


def variants() -> list[Contender]:
    """Every variant by the engine that is planned for it, and the step loop beside."""
    normed: dict[str, Any] = {"variant": "none", "layer_norm": True}
    attended: dict[str, Any] = {"variant": "attention_gate"}
    scaled: dict[str, Any] = {"variant": "attention_film"}
    chosen = [plain(STEPS)]
    chosen += [ours(name, variant=name) for name in ("none", "concat", "film", "gate", "ea_lstm")]
    return [
        *chosen,
        ours("LayerNorm", **normed),
        ours("LayerNorm, raw cell state", **normed, normalize_cell=False),
        ours("LayerNorm, step loop", **normed, engine=Engine.STEPS),
        ours("attention A (attention_input)", variant="attention_input"),
        ours("attention B, additive", **scaled, modulation="additive"),
        ours("attention B, multiplicative (step loop)", **scaled),
        ours("attention C (attention_gate)", **attended),
        ours("attention C, step loop", **attended, engine=Engine.STEPS),
        ours("attention C with LayerNorm", **attended, layer_norm=True),
    ]


def compiled() -> list[Contender]:
    """Compiled chunks beside what is planned on a CPU."""
    chosen = [plain(STEPS)]
    for name, choices in (
        ("LayerNorm", {"variant": "none", "layer_norm": True}),
        ("attention C", {"variant": "attention_gate"}),
        ("attention B, multiplicative", {"variant": "attention_film"}),
    ):
        chosen.append(ours(f"{name}, as planned", **choices))
        chosen.append(ours(f"{name}, compiled chunks", engine=Engine.COMPILED, **choices))
    return chosen


def indispensable(training: bool) -> Callable[[], None]:
    """What no engine does without: the products with U, and the activations of gates and cells."""
    recurrent = torch.randn(4 * HIDDEN, HIDDEN)
    gates, hidden = torch.randn(STEPS, BATCH, 4 * HIDDEN), torch.randn(STEPS, BATCH, HIDDEN)

    def run() -> None:
        for z, h in zip(gates.unbind(0), hidden.unbind(0), strict=True):
            torch.mm(h, recurrent.T, out=z).sigmoid_()
            h.sigmoid_()
        if training:
            for z, h in zip(gates.unbind(0), hidden.unbind(0), strict=True):
                torch.mm(z, recurrent, out=h)
            torch.mm(gates.flatten(0, 1).T, hidden.flatten(0, 1))

    return run


def free_runs(training: bool, forms: Sequence[tuple[str, Engine | None]]) -> list[Contender]:
    """The folded decoder in some forms, beside two loops over the steps."""
    choices: dict[str, Any] = {"autoregressive": True, "context": 1, "training": training}
    loop = Loop()
    x, static = torch.randn(BATCH, STEPS, DYNAMIC), torch.randn(BATCH, 1, EMBEDDING)

    def predict() -> Tensor:
        outputs: Tensor = loop(x, static)
        return outputs

    call = train(predict) if training else torch.no_grad()(predict)
    return [
        Contender("nn.LSTM, one step a call", call),
        ours("our step loop", **choices, engine=Engine.STEPS),
        *(ours(name, **choices, engine=engine) for name, engine in forms),
        Contender("products with U and activations alone", indispensable(training)),
    ]


def free_run_tables(
    rounds: int, forms: Sequence[tuple[str, Engine | None]], most_threads: int = 1
) -> None:
    """Free runs with one thread, and more where the machine has cores for them."""
    for threads in range(1, 1 + min(most_threads, os.cpu_count() or 1)):
        torch.set_num_threads(threads)
        for training, passes in ((True, "forward and backward"), (False, "forward alone")):
            title = f"Free run, {passes}, threads: {threads}"
            table(title, free_runs(training, forms), rounds)
    torch.set_num_threads(1)


def growth(rounds: int) -> None:
    """Time of twice the steps: an implementation that is linear in T doubles."""
    print(f"\nTime of 2 T steps over that of T\n{'':44}{'365':>9}{'1024':>9}")
    for name, choices in (
        ("LayerNorm, by hand", {"layer_norm": True}),
        ("LayerNorm, step loop", {"layer_norm": True, "engine": Engine.STEPS}),
        ("attention C, by hand", {"variant": "attention_gate"}),
    ):
        ratios = []
        for steps in (365, 1024):
            pair = [ours(name, steps=n, **choices) for n in (steps, 2 * steps)]
            for contender in pair:
                contender.warm()
            for _ in range(max(2, rounds // 3)):
                for contender in pair:
                    contender.sample()
            ratios.append(pair[1].cost(1) / pair[0].cost(1))
        print(f"{name:44}{ratios[0]:9.2f}{ratios[1]:9.2f}", flush=True)


def tuned_again() -> None:
    """Start this process again under the launcher's allocator settings, unless it is."""
    wanted = {**ALLOCATOR, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        command = [sys.executable, "-m", "benchmarks.lstm", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="timings of each contender")
    parser.add_argument("--compiled", action="store_true", help="time compiled chunks instead")
    options = parser.parse_args()
    tuned_again()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, load {os.getloadavg()}")
    sizes = f"B = {BATCH}, T = {STEPS}, H = {HIDDEN}, {STATIC} static features"
    if options.compiled:
        table(f"Forward and backward, {sizes}", compiled(), options.rounds)
        free_run_tables(options.rounds, [("folded, compiled chunks", Engine.COMPILED)])
        return
    table(f"Forward and backward, {sizes}", variants(), options.rounds)
    forms = [("folded", None), ("folded, by hand", Engine.ANALYTIC)]
    free_run_tables(options.rounds, forms, most_threads=2)
    growth(options.rounds)
    print(f"\nload at the end {os.getloadavg()}")


if __name__ == "__main__":
    main()
