"""`State`, which a network carries from one call to the next, and `RunResult`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neurocuda.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class State:
    """The state of a network after a time step.

    `state[a:b]` is the state of part of a batch; `torch.save` writes it, `torch.load(..., weights_only=True)` reads it.

    Args:
        tensors: float32, by `node.quantity`, the batch first: "v" and "i" of neurons [B, *shape], "history" of delays
            [B, steps, *shape], and "previous", the last output of nodes with a delayed edge.

    Example:
        >>> import neurocuda, torch
        >>> net = neurocuda.load("examples/digits/digits.nir")
        >>> _, state = net(torch.zeros(3, 2, 1, 8, 8))
        >>> state[0:1].tensors["lif1.v"].shape
        torch.Size([1, 16, 8, 8])
    """

    tensors: dict[str, Tensor]

    def __getitem__(self, batch: slice) -> State:
        if not isinstance(batch, slice):
            raise ArgumentError(f"state: expected a slice of the batch, such as state[0:4], found {batch!r}")
        return self._map(lambda tensor: tensor[batch])

    def to(self, device: torch.device | str) -> State:
        """The state on another device.

        Args:
            device: The device, such as "cpu" or "cuda:0".

        Returns:
            A new state; a tensor that is on the device already is shared.
        """
        return self._map(lambda tensor: tensor.to(device))

    def detach(self) -> State:
        """The state without its autograd history, for truncated backpropagation through time.

        Returns:
            A new state that shares the memory.
        """
        return self._map(lambda tensor: tensor.detach())

    def _map(self, function: Callable[[Tensor], Tensor]) -> State:
        return State({name: function(tensor) for name, tensor in self.tensors.items()})

    @staticmethod
    def cat(parts: Sequence[State]) -> State:
        """Concatenates states along the batch.

        Args:
            parts: States of one network for the parts of a batch, in order.

        Returns:
            The state of the batch, with copies of the tensors.

        Raises:
            ArgumentError: There are no parts, or their entries or shapes differ.
        """
        if not parts:
            raise ArgumentError("state: expected at least one part, found none")
        for part in parts:
            if not isinstance(part, State):
                raise ArgumentError(f"state: expected parts that are a State, found {type(part).__name__}")
            strange = sorted(set(part.tensors) ^ set(parts[0].tensors))
            if strange:
                raise ArgumentError(f"state: expected parts with the same entries, found a difference in {strange}")
            for name, tensor in part.tensors.items():
                shape, first = tuple(tensor.shape[1:]), tuple(parts[0].tensors[name].shape[1:])
                if shape != first:
                    raise ArgumentError(
                        f"state, entry {name!r}: expected parts of shape {first}, found {tuple(tensor.shape)}"
                    )
        return State({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


@dataclass(frozen=True)
class RunResult:
    """The result of `Executor.run`.

    Args:
        output: The signals of the Output, float32 [T, B, *shape]; a dict by name if there are several.
        state: The state after the last step.
        recordings: float32 [T, B, *shape], by node and quantity.

    Example:
        >>> import neurocuda, torch
        >>> net = neurocuda.load("examples/digits/digits.nir")
        >>> net.run(torch.zeros(3, 2, 1, 8, 8), record={"li": "v"}).recordings["li"]["v"].shape
        torch.Size([3, 2, 10])
    """

    output: Tensor | dict[str, Tensor]
    state: State
    recordings: dict[str, dict[str, Tensor]]


# Files name the class by its path in version 0.1; `torch.load` imports it from there.
State.__module__ = "neurocuda.state"
sys.modules[State.__module__] = sys.modules[__name__]
torch.serialization.add_safe_globals([State])


def check_state(state: State, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
    """Raises `ArgumentError` unless the state has exactly these entries; shapes: of the batch, [B, *shape]."""
    if not isinstance(state, State):
        raise ArgumentError(f"state: expected the State that a call returned, found {type(state).__name__}")
    if state.tensors.keys() != shapes.keys():
        strange = sorted(set(state.tensors) ^ set(shapes))
        raise ArgumentError(f"state: expected entries {sorted(shapes)}, found a difference in {strange}")
    for name, shape in shapes.items():
        tensor = state.tensors[name]
        if tensor.shape != shape or tensor.dtype != torch.float32 or tensor.device != device:
            found = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
            raise ArgumentError(f"state, entry {name!r}: expected {shape} torch.float32 on {device}, found {found}")
