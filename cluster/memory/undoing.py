"""What a step changes, copied to host memory so that it can be put back."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from cluster.checkpoints import random_state


class ParameterCopy:
    """Parameters and what the optimizer keeps for them, as they are now.

    Gradients too, as some optimizers use them as scratch (SGD with Nesterov's momentum and
    ``foreach``). Putting back takes no memory on the device: tensors are written in place, and
    state that did not exist is dropped.

    Args:
        optimizer: Whose state is copied.
        parameters: Of which parameters.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimizer = optimizer
        self._random = random_state.capture()
        gradients = [p.grad for p in parameters if p.grad is not None]
        self._values = [(tensor, _on_host(tensor)) for tensor in (*parameters, *gradients)]
        self._parameters = list(parameters)
        self._states = {
            parameter: {
                # With the tensor itself: an optimizer may put another one in its place.
                name: (value, _on_host(value) if isinstance(value, Tensor) else None)
                for name, value in optimizer.state[parameter].items()
            }
            for parameter in parameters
            if parameter in optimizer.state
        }

    def put_back(self) -> None:
        """Make everything what it was."""
        for tensor, value in self._values:
            tensor.detach().copy_(value)
        for parameter in self._parameters:
            if parameter not in self._states:
                self._optimizer.state.pop(parameter, None)
        for parameter, saved in self._states.items():
            for value, copy in saved.values():
                if copy is not None:
                    value.copy_(copy)
            state = self._optimizer.state[parameter]
            state.clear()
            state.update({name: value for name, (value, _) in saved.items()})
        random_state.restore(self._random)


class BufferCopy:
    """The buffers of a network (running statistics of BatchNorm), as they are now."""

    def __init__(self, network: nn.Module) -> None:
        self._buffers = [
            (module, name, buffer, buffer.clone())
            for module in network.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]

    def put_back(self) -> None:
        """Make every buffer what it was, also where the network has put another in its place."""
        for module, name, buffer, copy in self._buffers:
            buffer.copy_(copy)
            setattr(module, name, buffer)


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
