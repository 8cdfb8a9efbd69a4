"""Laws of the optimizer's step: out of memory anywhere in it, each parameter moves exactly once."""

import copy
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from support.shortage import Refusing, run_short_of_memory
from support.small_work import equal
from torch import Tensor, optim
from torch.optim import Optimizer

from cluster import OptimizerStep
from cluster.memory.refusal import is_out_of_memory

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("quick_collection")

STEPS = 3
Maker = Callable[[list[Tensor]], Optimizer]


class Coupled(Optimizer):
    """Every parameter moves by the gradient over the norm of all gradients, and by chance."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        moving = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in moving]).norm()
        for p in moving:
            p.addcdiv_(p.grad, norm, value=-0.1).add_(torch.randn(p.shape), alpha=0.01)


def _two_groups(parameters: list[Tensor]) -> list[dict[str, Any]]:
    return [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 1.0}]


MAKERS: dict[str, Maker] = {
    "sgd": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.1),
    "sgd-foreach": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True, foreach=True),
    "adam": lambda ps: optim.Adam(ps, 0.1),
    "adam-foreach": lambda ps: optim.Adam(ps, 0.1, amsgrad=True, maximize=True, foreach=True),
    "adamw": lambda ps: optim.AdamW(ps, 0.1),
    "adamw-foreach": lambda ps: optim.AdamW(ps, 0.1, foreach=True),
    "adamw-fused": lambda ps: optim.AdamW(ps, 0.1, fused=True),
    "nadam-foreach": lambda ps: optim.NAdam(ps, 0.1, foreach=True),
    "rmsprop-foreach": lambda ps: optim.RMSprop(ps, 0.1, momentum=0.5, centered=True, foreach=True),
    "adagrad-foreach": lambda ps: optim.Adagrad(ps, 0.1, foreach=True),
    "adafactor": lambda ps: optim.Adafactor(ps, 0.1),
    "rprop": lambda ps: optim.Rprop(ps, 0.1),
    "asgd-foreach": lambda ps: optim.ASGD(ps, 0.1, foreach=True),
    "two-groups": lambda ps: optim.Adam(_two_groups(ps), 0.1),
    "coupled": Coupled,
}


class Descent:
    """Parameters that are stepped along gradients that depend on the step alone."""

    def __init__(self, make: Maker, thrifty: bool = False) -> None:
        draws = torch.Generator().manual_seed(3)
        shapes = [(3, 4), (4,), (2, 2), (5,)]
        self.parameters = [torch.randn(s, generator=draws).requires_grad_() for s in shapes]
        self.optimizer = make(self.parameters)
        self.step = OptimizerStep(self.optimizer, thrifty)
        self.done = 0
        torch.manual_seed(5)

    def advance(self, *refused: int) -> int:
        """Take a step in which some operations are refused; returns how many there were."""
        draws = torch.Generator().manual_seed(self.done)
        for parameter in self.parameters:
            parameter.grad = torch.randn(parameter.shape, generator=draws)
        self.parameters[1].grad = None  # as of a layer that took no part
        allocator = Refusing(*refused)
        with allocator:
            self.step()
        self.done += 1
        return allocator.seen

    def finish(self) -> "Descent":
        while self.done < STEPS:
            self.advance()
        return self

    def state(self) -> Any:
        # Gradients too: Nesterov's step with foreach writes into them.
        gradients = [parameter.grad for parameter in self.parameters]
        parts = [self.parameters, self.optimizer.state_dict(), torch.get_rng_state(), self.done]
        return copy.deepcopy([*parts, gradients])

    def load(self, state: Any) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state[0], strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(copy.deepcopy(state[1]))
        torch.set_rng_state(state[2])
        self.done = state[3]


def _plain(name: str) -> Any:
    """The same descent with the optimizer's own step."""
    descent = Descent(MAKERS[name])
    with patch.object(descent, "step", descent.optimizer.step):
        return descent.finish().state()


@pytest.mark.parametrize("name", MAKERS)
def test_a_thrifty_step_is_the_plain_step(name: str) -> None:
    assert equal(Descent(MAKERS[name], thrifty=True).finish().state(), _plain(name))


@pytest.mark.parametrize("thrifty", [False, True])
@pytest.mark.parametrize("name", ["sgd-foreach", "adam", "adamw-foreach", "two-groups", "coupled"])
def test_a_first_step_cut_short_anywhere_changes_no_bit(name: str, thrifty: bool) -> None:
    plain, operations = _plain(name), Descent(MAKERS[name], thrifty).advance()
    for operation in range(operations):
        descent = Descent(MAKERS[name], thrifty)
        descent.advance(operation)
        assert descent.step.thrifty
        assert equal(descent.finish().state(), plain), f"refused: operation {operation}"


@pytest.mark.parametrize("name", ["sgd-foreach", "adam", "adamw-foreach", "coupled"])
def test_a_later_step_cut_short_is_right_from_the_last_checkpoint(name: str) -> None:
    plain, before = _plain(name), Descent(MAKERS[name])
    before.advance()
    checkpoint = before.state()
    for operation in range(before.advance()):
        descent = Descent(MAKERS[name])
        descent.advance()
        with pytest.raises(torch.OutOfMemoryError) as failure:
            descent.advance(operation)
        assert is_out_of_memory(failure.value)
        assert "go back to the last checkpoint" in failure.value.__notes__[0]
        again = Descent(MAKERS[name], thrifty=True)
        again.load(checkpoint)
        assert equal(again.finish().state(), plain)


def test_memory_that_stays_short_is_told_from_which_parameter_on() -> None:
    descent, twin = Descent(MAKERS["adamw"]), Descent(MAKERS["adamw"])
    twin.advance()
    last, tries = descent.parameters[3], 0

    def refuse(*_: object) -> None:
        nonlocal tries
        if last.grad is not None:
            tries += 1
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    descent.optimizer.register_step_pre_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError, match="part 3 of 3 taken one by one: go back"):
        descent.advance()
    assert tries == 3  # with all the others, alone, and alone once more
    assert equal(descent.parameters[:3], twin.parameters[:3])
    assert last not in descent.optimizer.state


def test_other_errors_pass() -> None:
    descent = Descent(MAKERS["adam"])

    def fail(*_: object) -> None:
        raise RuntimeError("shapes differ")

    descent.optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        descent.advance()
    assert not descent.step.thrifty


#: 8 parameters of 8 MB. Moments take 16 of these, the copy of parameters and gradients 16 and
#: the square roots of a step of all at once 8, which is 4 too many. Besides the moments, a step
#: of one alone takes 2 for the copy, and 1 or 2.
_REAL_SHORTAGE = """
import json, resource
from pathlib import Path
import torch
from cluster import OptimizerStep

torch.set_num_threads(1)
FLOATS = 2_000_000

def descent():
    parameters = [torch.ones(FLOATS).requires_grad_() for _ in range(8)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.25)
    return parameters, torch.optim.AdamW(parameters, 0.1, foreach=True)

def digest(parameters, optimizer):
    states = [optimizer.state[p] for p in parameters]
    extremes = lambda tensor: [tensor.min().item(), tensor.max().item()]
    return [(extremes(p), extremes(s["exp_avg"]), extremes(s["exp_avg_sq"]), s["step"].item())
            for p, s in zip(parameters, states)]

parameters, optimizer = descent()
optimizer.step()
plain = digest(parameters, optimizer)
del parameters, optimizer
parameters, optimizer = descent()
step = OptimizerStep(optimizer)
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
limit = used + 36 * 8_000_000 - 4_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
step()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([step.thrifty, digest(parameters, optimizer) == plain]))
"""


def test_a_real_shortage_in_the_first_step_is_healed() -> None:
    assert run_short_of_memory(_REAL_SHORTAGE) == [True, True]
