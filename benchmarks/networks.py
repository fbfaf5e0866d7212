"""The networks as a user would write them in PyTorch, with neurons and layers as arguments."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from benchmarks.problem import Fire, Layer, Recall

WIDTHS = (64, 128, 256, 512)
RESNET18, RESNET34 = (2, 2, 2, 2), (3, 4, 6, 3)
"""Residual blocks of each width."""

Block = tuple[str, int, int, int]


def lif(layer: Mapping[str, Layer], fire: Fire, recall: Recall, x: Tensor) -> Tensor:
    """A population of neurons alone."""
    return fire("lif", x)


def braille(layer: Mapping[str, Layer], fire: Fire, recall: Recall, x: Tensor) -> Tensor:
    """The Braille network of the NIR paper: 12 inputs, 38 recurrent CubaLIF, 7 CubaLIF."""
    spikes = fire("lif1.lif", layer["fc1"](x) + layer["lif1.w_rec"](recall("lif1.lif")))
    return fire("lif2", layer["fc2"](spikes))


def paper_cnn(layer: Mapping[str, Layer], fire: Fire, recall: Recall, x: Tensor) -> Tensor:
    """The convolutional N-MNIST network of the NIR paper, with the node names of its file."""
    x = fire("1", layer["0"](x))
    x = fire("3", layer["2"](x))
    x = fire("6", layer["5"](layer["4"](x)))
    x = fire("10", layer["9"](layer["8"](layer["7"](x))))
    return fire("12", layer["11"](x))


def digits(layer: Mapping[str, Layer], fire: Fire, recall: Recall, x: Tensor) -> Tensor:
    """The network of examples/digits: two residual sums, and the membranes of ten leaky integrators as output."""
    one = fire("lif1", layer["conv1"](x))
    two = fire("lif2", layer["conv2"](one) + one)
    three = fire("lif3", layer["conv3"](two))
    four = fire("lif4", layer["conv4"](three) + three)
    return fire("li", layer["affine"](layer["flatten"](layer["pool"](four))))


def blocks(counts: Sequence[int] = RESNET18) -> Iterator[Block]:
    """Name, channels in, channels out and stride of the residual blocks of a ResNet."""
    into = 64
    for stage, (width, count) in enumerate(zip(WIDTHS, counts, strict=True)):
        for number in range(count):
            yield f"layer{stage + 1}_{number}", into, width, 2 if stage and not number else 1
            into = width


def resnet18(layer: Mapping[str, Layer], fire: Fire, recall: Recall, x: Tensor) -> Tensor:
    """ResNet-18 for 3x32x32, with an IF population for each ReLU, the read-out a sum over space."""
    return _resnet(layer, fire, x, RESNET18)


def resnet34(layer: Mapping[str, Layer], fire: Fire, recall: Recall, x: Tensor) -> Tensor:
    """As `resnet18`, with 16 blocks."""
    return _resnet(layer, fire, x, RESNET34)


def _resnet(layer: Mapping[str, Layer], fire: Fire, x: Tensor, counts: Sequence[int]) -> Tensor:
    x = fire("if1", layer["conv1"](x))
    for name, _, _, stride in blocks(counts):
        skip = x if stride == 1 else layer[f"{name}_downsample"](x)
        inner = fire(f"{name}_if1", layer[f"{name}_conv1"](x))
        x = fire(f"{name}_if2", layer[f"{name}_conv2"](inner) + skip)
    return layer["fc"](layer["flatten"](layer["pool"](x)))
