"""What to use instead of parts of a model that have no meaning as a spiking network."""

from __future__ import annotations

_INSTEAD = (
    ("gelu silu swish mish elu selu celu softplus leaky prelu glu logsigmoid", "nn.ReLU, and train the model with it"),
    ("attention transformer matmul bmm einsum", "convolutions and linear layers, whose weights are constant"),
    ("sigmoid tanh softsign erf", "nn.ReLU; after the last layer nothing, as scores order the classes alike"),
    ("lstm gru rnn", "the neurons of neurocuda.nn, which have a state"),
    ("layernorm layer_norm groupnorm group_norm instancenorm instance_norm responsenorm", "BatchNorm"),
    ("softm", "remove it if it is the last, as scores order the classes alike; otherwise nn.ReLU"),
    ("transpose permute", "the axes [B, channels, rows, columns] throughout"),
    ("chunk split unbind narrow select", "a layer for each part"),
    ("rand noise bernoulli normal_", "nothing of chance in eval mode"),
)
_KNOWN = "convolutions, linear layers, BatchNorm, ReLU, sums, pools and concatenations"


def instead(what: str) -> str:
    """What to use instead of a layer or function of that name."""
    name = what.lower()
    return next((advice for words, advice in _INSTEAD if any(word in name for word in words.split())), _KNOWN)
