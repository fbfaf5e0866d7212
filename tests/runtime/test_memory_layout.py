"""Signals in sample-major memory order, which threads share by samples: the same values, without gaps."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from comparison import graph_of
from drawn import settings
from integer_networks import BY_R, conv, fires, needs_bytes, pool
from layers_at_bound import ones
from make_nir import graph, input_, output, scale, threshold
from torch import Tensor

from neurocuda import Discretization, Executor
from neurocuda.compiler import tiling
from neurocuda.compiler.lowering import How
from neurocuda.runtime.layers import fold_time, is_by_sample, to_sample_order, unfold_time
from neurocuda.runtime.memory_layout import cut_steps, join_steps

SHAPES = [(3, 2, 5), (1, 4, 2, 3, 4), (4, 1, 3), (5, 3, 2, 3, 4), (2, 2)]
LAYOUTS = ("steps", "samples", "steps, channels last", "samples, channels last")


def signal(shape: tuple[int, ...], layout: str) -> Tensor:
    x = torch.arange(torch.Size(shape).numel()).float().reshape(shape)
    if layout.endswith("last") and x.dim() == 5:
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    if layout.startswith("samples"):
        axes = [1, 0, *range(2, x.dim())] if x.dim() < 5 or not layout.endswith("last") else [1, 0, 3, 4, 2]
        x = x.permute(axes).contiguous().permute([axes.index(axis) for axis in range(x.dim())])
    return x


@pytest.mark.parametrize(("shape", "layout"), [*product(SHAPES, LAYOUTS)])
def test_frames_are_views_in_the_order_of_memory(shape: tuple[int, ...], layout: str) -> None:
    x = signal(shape, layout)
    assert is_by_sample(x) == (layout.startswith("samples") and min(shape[:2]) > 1)
    frames = fold_time(x)
    assert frames.data_ptr() == x.data_ptr()
    assert torch.equal(unfold_time(frames, x), x)
    assert torch.equal(unfold_time(frames * 2, x), x * 2)


@pytest.mark.parametrize(("shape", "layout", "length"), [*product(SHAPES, LAYOUTS, (1, 2, 3))])
def test_tiles_join_to_the_signal(shape: tuple[int, ...], layout: str, length: int) -> None:
    x = signal(shape, layout)
    pieces = [cut_steps(x, slice(start, start + length)) for start in range(0, len(x), length)]
    for number, piece in enumerate(pieces):
        assert torch.equal(piece, x[number * length :][:length])
        assert fold_time(piece).numel() == piece.numel()
        assert fold_time(piece).data_ptr() == piece.data_ptr(), "nothing is copied again"
    whole = join_steps([piece.clone() for piece in pieces])
    assert torch.equal(whole, x)
    assert torch.equal(to_sample_order(x), x)
    assert is_by_sample(to_sample_order(x)) == (min(shape[:2]) > 1)


@needs_bytes
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("how", ["ordered", "library", "integer"])
def test_threads_share_samples_and_change_no_bit(how: How, frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions, pools, a skip, a soft reset and a layer after them, in one chunk and in tiles."""
    monkeypatch.setattr(tiling, "PIECE", 1500)
    nodes = {
        "input": input_(3, 8, 8),
        "a": conv(17, 3),
        "n": fires(17, 8, 8),
        "b": conv(17, 17, key=1),
        "i": ones("I", 17, 8, 8),
        "z": threshold(2.0),
        "s": scale(-3.0),
        "p": pool("SumPool2d"),
        "c": conv(4, 17, key=2),
        "m": fires(4, 4, 4),
        "q": pool("AvgPool2d"),
        "output": output(4, 2, 2),
    }
    raw = graph("input>a a>n n>b b>i n>i i>z z>s s>i z>p n>p p>c c>m m>q q>output", **nodes)
    draw = torch.Generator().manual_seed(3)
    for steps, batch in ((9, 2), (9, 5), (4, 3), (1, 4), (7, 1)):
        x = torch.randint(0, 3, (steps, batch, 3, 8, 8), generator=draw).float()
        found = []
        for threads in (1, 2, 3):
            force: dict[str, How] = {"a": how, "b": how, "c": how}
            net = Executor(graph_of(raw), Discretization(**BY_R), chunk=5, force=force, frozen=frozen)
            assert net.schedule.by_sample
            with settings(threads), torch.no_grad():
                states, state = [], None
                for _ in range(4):  # the first calls run operator by operator, later ones are captured
                    y, state = net(x, state)
                    states.append((y, *state.tensors.values()))
                recorded = net.run(x, record={"n": ("v", "output"), "z": "output", "p": ("input", "output")})
            values = [t for at in states for t in at]
            values += [t for at in recorded.recordings.values() for t in at.values()]
            assert all(t.is_contiguous() for t in (y, *recorded.recordings["n"].values()))
            found.append(values)
        for threads, values in zip((2, 3), found[1:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(values, found[0], strict=True)), (steps, batch, threads)
        assert found[0][0].any()
