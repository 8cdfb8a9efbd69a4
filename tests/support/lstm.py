"""Small models and inputs in float64 for the tests of kernels.lstm."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kernels.lstm import LSTMSettings, Prediction, StaticDynamicLSTM

B, CONTEXT, STEPS = 3, 4, 6
DYNAMIC, STATIC, OUTPUTS, HIDDEN, WIDTH = 3, 3, 2, 5, 4


class Inputs(NamedTuple):
    """One call's tensors, in the order of the model's arguments."""

    context_x: Tensor
    static_x: Tensor
    future_known: Tensor
    target: Tensor
    past_target: Tensor


def inputs(static: int = STATIC, context: int = CONTEXT, outputs: int = OUTPUTS) -> Inputs:
    generator = torch.Generator().manual_seed(7)
    shapes = (
        (B, context, DYNAMIC),
        (B, static),
        (B, STEPS, DYNAMIC),
        (B, STEPS, outputs),
        (B, context, outputs),
    )
    return Inputs(
        *(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    )


def model(seed: int = 0, **choices: Any) -> StaticDynamicLSTM:
    """A model in float64 and eval mode; every weight differs from zero and one."""
    sizes: dict[str, Any] = {
        "dynamic": DYNAMIC,
        "static": STATIC,
        "outputs": OUTPUTS,
        "hidden": HIDDEN,
        "embedding": WIDTH,
        "attention": 2,
        "static_hidden": 6,
    }
    made = StaticDynamicLSTM(LSTMSettings(**sizes | choices)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator)
    return made


def gradients(prediction: Prediction, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Of a loss that reads every output in another way; zero where nothing depends."""
    weights = torch.linspace(0.5, 1.5, prediction.outputs.numel(), dtype=torch.float64)
    loss = (prediction.outputs.sin().flatten() * weights).sum()
    return list(torch.autograd.grad(loss, list(parameters), materialize_grads=True))
