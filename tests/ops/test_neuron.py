"""Native `neuron` and `branch_sum` against the reference: equal bits and gradients, autograd, torch.compile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from devices import on_each_device
from drawn import assert_equal, counts
from make_nir import numbers
from torch import Tensor

from neurocuda.errors import ArgumentError
from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate, backends, native, reference

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.sanitized,
    pytest.mark.skipif(not backends.is_usable(backends.backends()["cpu"]), reason="neurocuda._C is not there"),
]

NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool)
OUTPUTS = ("same", "float32", "uint8", "packed")
BRANCHES = tuple(range(1, 9))
MODES = ("scalar", "channel", "neuron", "last axis", "sample", "transposed", "mixed")
LAYOUTS = ("plain", "channels last", "batch first", "sliced", "constant", "silent", "mixed")
SHAPES = (
    (1,),
    (2,),
    (8,),
    (129,),
    (151,),
    (372,),
    (),
    (3, 5, 7),
    (2, 129),
    (8, 12, 13),
    (151, 1, 2),
    (129, 3),
    (5, 2, 2, 3),
)
STEPS = (1, 2, 7, 12)
BATCHES = (1, 2, 3)
THREADS = (1, 2)
SILENT = Surrogate()


class Kind(NamedTuple):
    """A neuron and the fields of the discretization that reach its update."""

    neuron: str
    when: Any = "above"
    reset: Any = "to-value"
    synapse: Any = "updated"
    many: Any = "one"
    takes_effect: Any = "now"
    bound: Any = "unbounded"

    @property
    def fires(self) -> bool:
        return self.neuron.endswith("F")

    @property
    def has_synapse(self) -> bool:
        return self.neuron.startswith("Cuba") or self.reset == "feedback"


def kinds() -> Iterator[Kind]:
    for neuron in NEURONS:
        fires = neuron.endswith("F")
        yield from itertools.starmap(
            Kind,
            itertools.product(
                [neuron],
                ["above", "reaching"] if fires else ["above"],
                ["to-value", "subtract"] if fires else ["to-value"],
                ["updated", "previous"] if neuron.startswith("Cuba") else ["updated"],
                ["one", "many"] if fires else ["one"],
            ),
        )


def forward_kinds() -> Iterator[Kind]:
    """With those that have no gradient as one operator: a soft reset by spikes that come back as current."""
    yield from kinds()
    yield from (Kind("IF", when, "feedback") for when in ("above", "reaching"))


def general_kinds() -> Iterator[Kind]:
    """Those with a late reset or a lower bound."""
    for kind, takes_effect, bound in itertools.product(kinds(), ("now", "late"), ("unbounded", "bounded")):
        if (
            kind.fires
            and (takes_effect, bound) != ("now", "unbounded")
            and (takes_effect, kind.many) != ("late", "many")
        ):
            yield kind._replace(takes_effect=takes_effect, bound=bound)


class Case(NamedTuple):
    kind: Kind
    dtype: torch.dtype
    output: str
    mode: str
    layout: str
    branches: int
    shape: tuple[int, ...]
    steps: int
    batch: int
    threads: int
    record: tuple[str, ...]


def cases(kind: Kind) -> list[Case]:
    """Neuron, fields, types, outputs, modes and layouts in every combination; the rest takes turns."""
    found = []
    for number, (dtype, output, mode, layout) in enumerate(itertools.product(DTYPES, OUTPUTS, MODES, LAYOUTS)):
        if output == "packed" and (not kind.fires or kind.many == "many"):
            continue
        if output == "uint8" and not kind.fires:
            continue
        if output == "same" and kind.many == "many" and dtype == torch.bool:
            continue
        draw = numbers(kind, number)
        pick = [options[draw.integers(len(options))] for options in (BRANCHES, SHAPES, STEPS, BATCHES, THREADS)]
        record = [(), ("v",), ("i",), ("v", "i")][draw.integers(4 if kind.has_synapse else 2)]
        found.append(Case(kind, dtype, output, mode, layout, *pick, record))
    return found


def lay_out(values: Tensor, how: str) -> Tensor:
    """The same values [T, B, *shape] in memory of another order."""
    if how == "channels last" and values.dim() >= 4:
        order = [0, 1, *range(3, values.dim()), 2]
        back = [order.index(axis) for axis in range(values.dim())]
        return values.permute(order).contiguous().permute(back)
    if how == "batch first":
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    if how == "sliced":
        wide = values.new_zeros(*values.shape, 3)
        wide[..., 1] = values
        return wide[..., 1]
    return values.contiguous()


def branches_of(case: Case, draw: np.random.Generator) -> list[Tensor]:
    result = []
    for _ in range(case.branches):
        how = case.layout if case.layout != "mixed" else LAYOUTS[draw.integers(len(LAYOUTS) - 1)]
        shape = (case.steps, case.batch, *case.shape)
        if how == "silent":
            result.append(torch.zeros((), dtype=case.dtype).expand(shape))
            continue
        if how == "constant":
            shape = (1, *shape[1:])
        if case.dtype in (torch.uint8, torch.bool):
            values = torch.from_numpy(draw.integers(0, 2 if case.dtype == torch.bool else 4, shape)).to(case.dtype)
        else:
            values = torch.from_numpy(draw.normal(0.6, 1, shape)).to(case.dtype)
        result.append(lay_out(values, how).expand(case.steps, *[-1] * (values.dim() - 1)))
    return result


def coefficient(low: float, high: float, case: Case, draw: np.random.Generator) -> Tensor:
    mode = case.mode if case.mode != "mixed" else MODES[draw.integers(len(MODES) - 1)]
    shape = case.shape
    sizes = {
        "scalar": (),
        "channel": (*shape[:1], *[1] * (len(shape) - 1)),
        "neuron": shape,
        "last axis": shape[-1:],
        "sample": (case.batch, *shape),
        "transposed": shape[::-1],
    }[mode]
    value = torch.from_numpy(np.asarray(draw.uniform(low, high, sizes), np.float32))
    return value.permute(list(range(value.dim()))[::-1]) if mode == "transposed" else value


def coefficients_of(case: Case, draw: np.random.Generator) -> NeuronCoefficients:
    kind = case.kind
    leaks = kind.neuron not in ("I", "IF")

    def value(low: float, high: float, wanted: bool = True, otherwise: float | None = None) -> Any:
        if not wanted:
            return None if otherwise is None else torch.tensor(otherwise)
        return coefficient(low, high, case, draw)

    return NeuronCoefficients(
        value(0.5, 0.99, leaks, 1.0),
        value(0.2, 0.8),
        value(-0.1, 0.1, leaks, 0.0),
        value(-0.9, -0.3, True) if kind.reset == "feedback" else value(0.3, 0.9, kind.has_synapse),
        value(0.5, 1.5, kind.has_synapse),
        value(0.3, 0.7, kind.fires),
        value(-0.2, 0.2, kind.fires and kind.reset != "feedback"),
        value(-0.3, 0.05, kind.bound == "bounded"),
        spike_when=kind.when,
        reset=kind.reset,
        synapse=kind.synapse,
        spikes_per_step=kind.many,
        reset_delay=1 if kind.takes_effect == "late" else 0,
    )


def state_of(case: Case, draw: np.random.Generator) -> NeuronState:
    how = LAYOUTS[draw.integers(4)]

    def values() -> Tensor:
        value = torch.from_numpy(draw.normal(0, 0.5, (case.batch, *case.shape)).astype(np.float32))
        return lay_out(value.unsqueeze(0), how)[0]

    return NeuronState(values(), values() if case.kind.has_synapse else None)


def expected_output(spikes: Tensor, case: Case) -> Tensor:
    if case.output == "packed":
        rows = spikes.flatten(1).numpy().astype(bool)
        return torch.from_numpy(np.packbits(rows, axis=1, bitorder="little"))
    if case.output == "float32":
        return spikes
    dtype = torch.uint8 if case.output == "uint8" else case.dtype
    if dtype in (torch.uint8, torch.bool) and not case.kind.fires:
        return spikes
    return spikes.clamp(max=255).to(dtype) if dtype == torch.uint8 else spikes.to(dtype)


def wanted_type(case: Case) -> torch.dtype | None:
    return {"same": None, "float32": torch.float32, "uint8": torch.uint8, "packed": None}[case.output]


def assert_case(case: Case) -> float:
    """Run one case both ways; the share of neuron steps that fired."""
    draw = numbers(case)
    branches, c, state = branches_of(case, draw), coefficients_of(case, draw), state_of(case, draw)
    spikes, after, traces = reference.neuron([b.float() for b in branches], c, state, SILENT, case.record)
    expected = expected_output(spikes, case)

    before = NeuronState(*[None if s is None else s.clone() for s in state])
    packed = case.output == "packed"
    output, found, recorded = native.neuron(
        branches, c, state, SILENT, case.record, dtype=wanted_type(case), packed=packed
    )
    assert_equal(output, expected, case)
    for ours, theirs, untouched, given in zip(found, after, before, state, strict=True):
        if theirs is not None:
            assert_equal(ours, theirs, case)
            assert torch.equal(given, untouched), case
    assert recorded.keys() == traces.keys()
    for name, trace in traces.items():
        assert_equal(recorded[name], trace, case)

    counts["neuron"] += 1
    return (spikes > 0).float().mean().item()


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@on_each_device
@pytest.mark.parametrize("kind", list(forward_kinds()), ids=lambda kind: "-".join(kind))
def test_matrix(kind: Kind) -> None:
    fired = []
    for case in cases(kind):
        torch.set_num_threads(case.threads)
        fired.append(assert_case(case))
    if kind.fires:
        assert 0.05 < np.mean(fired) < 0.95, "a case that never fires, or always, shows nothing"


def test_matrix_holds_every_value_of_every_axis() -> None:
    """With every neuron and every field of its update; and every two values of two other axes meet."""
    axes = {"dtype": DTYPES, "output": OUTPUTS, "mode": MODES, "layout": LAYOUTS, "branches": BRANCHES}
    axes |= {"shape": SHAPES, "steps": STEPS, "batch": BATCHES, "threads": THREADS}
    every = {kind: cases(kind) for kind in forward_kinds()}
    for kind, found in every.items():
        refused = {"packed"} if kind.many == "many" else set() if kind.fires else {"packed", "uint8"}
        for name, values in axes.items():
            assert {getattr(case, name) for case in found} == set(values) - refused, (kind, name)
    for one, other in itertools.combinations(axes, 2):
        pairs = {(getattr(case, one), getattr(case, other)) for case in itertools.chain(*every.values())}
        assert pairs == set(itertools.product(axes[one], axes[other])), (one, other)


LARGE = [
    Case(Kind(*kind), dtype, output, mode, layout, branches, shape, steps, batch, threads, record)
    for kind, dtype, output, mode, layout, branches, shape, steps, batch, threads, record in [
        (("LIF",), torch.float32, "float32", "scalar", "plain", 1, (400_003,), 3, 1, 2, ()),
        (("LIF",), torch.float32, "packed", "neuron", "plain", 1, (20_001,), 5, 3, 2, ("v",)),
        (("LIF", "reaching"), torch.float16, "same", "channel", "plain", 2, (9, 37, 41), 9, 8, 2, ()),
        (("LIF",), torch.float32, "float32", "channel", "channels last", 1, (64, 23, 29), 6, 2, 2, ()),
        (("LIF",), torch.float32, "packed", "channel", "channels last", 1, (64, 23, 29), 6, 2, 2, ()),
        (("CubaLIF",), torch.uint8, "uint8", "mixed", "sliced", 3, (6, 40, 50), 4, 5, 2, ("v", "i")),
        (("CubaLI",), torch.float32, "float32", "mixed", "mixed", 4, (3, 70, 71), 4, 2, 1, ("i",)),
        (("LIF",), torch.float32, "uint8", "mixed", "batch first", 2, (700, 13), 5, 8, 2, ()),
        (
            ("IF", "reaching", "subtract", "updated", "many"),
            torch.float32,
            "uint8",
            "last axis",
            "plain",
            1,
            (7, 2500),
            5,
            6,
            2,
            (),
        ),
        (("LIF",), torch.float32, "float32", "sample", "constant", 2, (1300,), 30, 40, 2, ()),
    ]
]


@on_each_device
@pytest.mark.parametrize("case", LARGE, ids=lambda case: f"{case.kind.neuron}-{case.mode}-{case.layout}")
def test_many_tiles_and_threads(case: Case) -> None:
    torch.set_num_threads(case.threads)
    assert_case(case)


def assert_not_numbers(case: Case) -> None:
    """NaN and infinity go through the update as through the reference."""
    draw = numbers(case)
    c, state = coefficients_of(case, draw), state_of(case, draw)
    x = torch.from_numpy(draw.choice(np.float32([0, 1, -1, np.nan, np.inf, -np.inf, 3e38]), (4, 2, 5, 7)))
    spikes, after, _ = reference.neuron([x], c, state, SILENT)
    spikes = spikes.nan_to_num(0, posinf=255) if case.output == "uint8" else spikes
    found, state, _ = native.neuron([x], c, state, SILENT, dtype=wanted_type(case), packed=case.output == "packed")
    assert_equal(found, expected_output(spikes, case), case.kind)
    assert_equal(state.v, after.v, case.kind)


@on_each_device
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_values_that_are_not_numbers(output: str, mode: str) -> None:
    for kind in kinds():
        if not kind.fires or (output == "packed" and kind.many == "many"):
            continue
        assert_not_numbers(Case(kind, torch.float32, output, mode, "plain", 1, (5, 7), 4, 2, 1, ()))


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_is_read_and_written_as_torch_does(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    total = native.branch_sum([every.unsqueeze(0)])[0]
    assert torch.equal(total.view(torch.int32)[~every.isnan()], every.float().view(torch.int32)[~every.isnan()])
    assert total[every.isnan()].isnan().all()

    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    c = NeuronCoefficients(zero, one, zero)  # emits what it is given
    wide = every[~every.isnan()].float()
    with np.errstate(all="ignore"):
        near = torch.cat(
            [wide, wide.nextafter(wide * 2), wide * (1 + 2**-8), wide * (1 + 2**-11), wide * (1 + 3 * 2**-11)]
        )
    near = torch.cat([near, torch.tensor([65519.996, 65520.0, -65520.0, 1e-8, 3e-8, 2.9802322e-08, math.nan, 1e38])])
    output, _, _ = native.neuron([near.unsqueeze(0)], c, NeuronState(torch.zeros_like(near)), SILENT, dtype=dtype)
    same = output[0].view(torch.int16) == (near + 0.0).to(dtype).view(torch.int16)
    assert (same | near.isnan()).all()
    assert output[0][near.isnan()].isnan().all()


def some(kind: Kind, *, shape: tuple[int, ...] = (3, 4), **changes: Any) -> Case:
    fields = {
        "kind": kind, "dtype": torch.float32, "output": "float32", "mode": "mixed", "layout": "plain", "branches": 2,
        "shape": shape, "steps": 5, "batch": 2, "threads": 1, "record": ("v", "i") if kind.has_synapse else ("v",),
    }  # fmt: skip
    return Case(**(fields | changes))


def leaves_of(case: Case) -> tuple[list[Tensor], NeuronCoefficients, NeuronState]:
    """Branches, coefficients and state that all ask for gradients."""
    draw = numbers(case)
    branches = [b.detach().requires_grad_(b.is_floating_point()) for b in branches_of(case, draw)]
    c, state = coefficients_of(case, draw), state_of(case, draw)
    own = {name: value.requires_grad_() for name, value in vars(c).items() if is_tensor(value)}
    state = NeuronState(*[None if s is None else s.requires_grad_() for s in state])
    return branches, NeuronCoefficients(**(vars(c) | own)), state


def is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def gradients_of(case: Case, module: Any, surrogate: Surrogate, parts: str = "output v i traces") -> dict[str, Tensor]:
    """The gradients of a sum of everything that comes out, each element with a weight of its own."""
    branches, c, state = leaves_of(case)
    inputs, own = branches, c
    if module is reference:
        inputs = [b.float() for b in branches]
        full = {name: value.expand(case.batch, *case.shape) for name, value in vars(c).items() if is_tensor(value)}
        full = {name: value.detach().clone().requires_grad_() for name, value in full.items()}
        own = NeuronCoefficients(**(vars(c) | full))
    output, after, traces = module.neuron(inputs, own, state, surrogate, case.record)
    found = {"output": output, "v": after.v, "i": after.i, **{f"trace {name}": t for name, t in traces.items()}}
    draw = numbers("weights", case)
    loss = torch.zeros(())
    for name, value in found.items():
        weight = None if value is None else torch.from_numpy(draw.normal(0, 1, value.shape).astype(np.float32))
        if value is not None and weight is not None and name.split()[0].replace("trace", "traces") in parts.split():
            loss = loss + (value * weight).sum()
    leaves = {f"branch {n}": b for n, b in enumerate(branches) if b.requires_grad}
    leaves |= {name: value for name, value in vars(own).items() if is_tensor(value)}
    leaves |= {f"state {name}": s for name, s in state._asdict().items() if s is not None}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    result = {}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        gradient = torch.zeros_like(leaf) if gradient is None else gradient
        shape = getattr(c, name, leaf).shape
        result[name] = gradient.double().sum_to_size(shape).to(gradient.dtype)
    return result


def assert_gradients(case: Case, surrogate: Surrogate, parts: str = "output v i traces") -> None:
    """Equal bits. Those of a coefficient that many neurons share are the sums, in float64, of those of each neuron:
    the reference would add them in float32, in whatever order torch takes."""
    expected = gradients_of(case, reference, surrogate, parts)
    found = gradients_of(case, native, surrogate, parts)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        ours = found[name]
        if not name.startswith(("branch", "state")):
            ours, gradient = ours + 0.0, gradient + 0.0  # sums may start at either zero
        assert_equal(ours, gradient, name, case)


@on_each_device
@pytest.mark.parametrize("kind", list(kinds()), ids="-".join)
def test_gradients_equal_those_of_the_reference(kind: Kind) -> None:
    for surrogate in (Surrogate(), Surrogate("arctan", 2.0), Surrogate("triangle", 0.7)):
        assert_gradients(some(kind), surrogate)
        assert_gradients(some(kind, mode="neuron", batch=1, steps=8), surrogate)
    for parts in ("output", "v", "i", "traces", "output v"):
        if parts != "i" or kind.has_synapse:
            assert_gradients(some(kind), SILENT, parts)
    for layout, mode in itertools.product(LAYOUTS, MODES):
        if layout != "silent":
            assert_gradients(some(kind, shape=(3, 2, 5), layout=layout, mode=mode), SILENT)
    for dtype in DTYPES:
        assert_gradients(some(kind, dtype=dtype), SILENT)


@on_each_device
@pytest.mark.parametrize("threads", THREADS)
def test_gradients_of_many_tiles(threads: int) -> None:
    torch.set_num_threads(threads)
    for kind in (Kind("LIF"), Kind("CubaLIF", "reaching", "subtract", "previous", "many")):
        assert_gradients(some(kind, shape=(5000,), mode="neuron", steps=12), SILENT)
        assert_gradients(some(kind, shape=(7, 20, 21), mode="channel", layout="channels last"), SILENT)


def test_gradients_do_not_depend_on_threads() -> None:
    case = some(Kind("CubaLIF"), shape=(5000,), mode="scalar")
    torch.set_num_threads(1)
    one = gradients_of(case, native, SILENT)
    torch.set_num_threads(2)
    two = gradients_of(case, native, SILENT)
    for name, gradient in one.items():
        assert torch.equal(gradient, two[name]), name


def test_gradients_of_gradients_are_refused() -> None:
    branches, c, state = leaves_of(some(Kind("LIF")))
    output, _, _ = native.neuron(branches, c, state, SILENT)
    gradient = torch.autograd.grad(output.square().sum(), branches, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="neuron_backward"):
        gradient.sum().backward()


def test_compiles_without_graph_breaks() -> None:
    case = some(Kind("CubaLIF"), dtype=torch.float32)
    branches, c, state = leaves_of(case)

    def run(branches: list[Tensor]) -> tuple[Tensor, Tensor]:
        output, after, _ = native.neuron([native.branch_sum(branches), branches[0]], c, state, SILENT)
        return output, after.v

    def results(function: Any) -> list[Tensor]:
        outputs = function(branches)
        return [*outputs, *torch.autograd.grad(sum(o.square().sum() for o in outputs), [*branches, state.v])]

    compile_it = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for expected, found in zip(results(run), results(compile_it), strict=True):
        assert torch.equal(found, expected)


@on_each_device
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_branch_sum(dtype: torch.dtype, layout: str) -> None:
    for count, shape, batch in itertools.product(
        BRANCHES, ((), (1,), (2,), (8,), (129,), (151,), (372,), (3, 5, 7), (40, 30, 10)), (1, 2)
    ):
        case = some(Kind("LI"), dtype=dtype, layout=layout, branches=count, shape=shape, batch=batch)
        branches = branches_of(case, numbers(case))
        expected = reference.branch_sum([b.float() for b in branches])
        assert_equal(native.branch_sum(branches), expected, case)
        counts["branch_sum"] += 1


@on_each_device
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_branch_sum(layout: str) -> None:
    """The gradient of each branch is the one that arrives, in the type of the branch."""
    for dtype, count in itertools.product(DTYPES[:3], BRANCHES):
        case = some(Kind("LI"), dtype=dtype, layout=layout, branches=count, shape=(3, 5, 7))
        draw = numbers(case)
        ours = [b.requires_grad_() for b in branches_of(case, draw)]
        theirs = [b.detach().requires_grad_() for b in ours]
        toward = torch.from_numpy(draw.normal(0, 1, ours[0].shape).astype(np.float32))
        found = torch.autograd.grad(native.branch_sum(ours), ours, toward)
        expected = torch.autograd.grad(reference.branch_sum([b.float() for b in theirs]), theirs, toward)
        for number, gradient in enumerate(expected):
            assert_equal(found[number], gradient, number, case)


@on_each_device
def test_no_steps_and_no_neurons() -> None:
    c = NeuronCoefficients(*[torch.ones(())] * 3)
    for shape in ((0, 2, 3), (4, 0, 3), (4, 2, 0)):
        x = torch.zeros(shape, requires_grad=True)
        v = torch.rand(shape[1:], requires_grad=True)
        output, state, _ = native.neuron([x], c, NeuronState(v), SILENT)
        assert output.shape == shape
        assert torch.equal(state.v, v)
        to_x, to_v = torch.autograd.grad(output.sum() + state.v.sum(), [x, v])
        assert to_x.shape == shape
        assert torch.equal(to_v, torch.ones_like(v))
        assert native.branch_sum([x, x]).shape == shape
        assert native.unpack_spikes(native.pack_spikes(x.detach()), shape[1:]).shape == shape


@on_each_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 129, 151, 1024, 1100])
def test_spikes_as_bits_and_back(size: int, dtype: torch.dtype) -> None:
    draw = numbers("bits", size)
    for layout in LAYOUTS[:5]:
        spikes = torch.from_numpy(draw.random((3, 2, size)) < 0.4).to(dtype)
        spikes = lay_out(spikes, layout) if layout != "constant" else spikes[:1].expand(4, -1, -1)
        bits = native.pack_spikes(spikes)
        rows = spikes.flatten(1).bool().numpy()
        assert_equal(bits, torch.from_numpy(np.packbits(rows, axis=1, bitorder="little")), layout)
        assert_equal(native.unpack_spikes(bits, (2, size), dtype), spikes, layout)
        wide = torch.zeros(bits.shape[0], bits.shape[1] + 3, dtype=torch.uint8)
        wide[:, 1:-2] = bits
        assert_equal(native.unpack_spikes(wide[:, 1:-2], (2, size), dtype), spikes, layout)


@on_each_device
def test_arguments_that_do_not_fit_are_named() -> None:
    one = torch.ones(())
    x, v, c = torch.ones(4, 2, 3), torch.zeros(2, 3), [one, one, one]
    nothing = [None] * 4
    neuron = torch.ops.neurocuda.neuron
    refused = [
        (lambda: neuron([], v, None, *c, *nothing), "expected 1 to 8 branches, found 0"),
        (lambda: neuron([x] * 9, v, None, *c, *nothing), "expected 1 to 8 branches, found 9"),
        (lambda: neuron([x, x[:2]], v, None, *c, *nothing), r"of one shape \[4, 2, 3\], found \[2, 2, 3\]"),
        (lambda: neuron([x.double()], v, None, *c, *nothing), "found float64"),
        (lambda: neuron([x], v[0], None, *c, *nothing), r"expected v of shape \[2, 3\], found \[3\]"),
        (lambda: neuron([x], v.half(), None, *c, *nothing), "expected v in float32, found float16"),
        (lambda: neuron([x], v, None, one.double(), one, one, *nothing), "expected decay_v in float32, found float64"),
        (lambda: neuron([x], v, None, torch.ones(2), one, one, *nothing), "decay_v of a shape that broadcasts"),
        (lambda: neuron([x], v, None, *c, one, one, None, None), "expected i, decay_i and gain_i, or none"),
        (lambda: neuron([x], v, None, *c, None, None, None, one), "expected a threshold with v_reset"),
        (lambda: neuron([x], v, None, *c, None, None, one, None), "expected v_reset, or i, decay_i and gain_i as the"),
        (lambda: neuron([x], v, v, *c, one, one, one, None, many=True), "expected v_reset, or i, decay_i and gain_i"),
        (lambda: neuron([x], v, None, *c, *nothing, packed=True), "packed bits hold spikes"),
        (lambda: neuron([x], v, None, *c, *nothing, dtype=torch.uint8), "a membrane potential does not fit in uint8"),
        (lambda: neuron([x], v, None, *c, *nothing, dtype=torch.float64), "expected an output of float32"),
        (lambda: neuron([x], v, None, *c, None, None, one, one, many=True, dtype=torch.bool), "does not fit in bool"),
        (lambda: native.unpack_spikes(torch.zeros(4, 2, dtype=torch.uint8), [3]), "expected bits in uint8"),
        (lambda: native.pack_spikes(x.long()), "found int64"),
    ]  # fmt: skip
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
    x.requires_grad_()
    with pytest.raises(NotImplementedError, match="spikes that come back as current have no gradient"):
        neuron([x], v, v, *c, one, one, one, None)
    with pytest.raises(ValueError, match="surrogate"):
        neuron([x], v, None, *c, *nothing, surrogate="sharp")
    with pytest.raises(ArgumentError):
        Surrogate(slope=0)


@on_each_device
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("neurons", [1_000_000, 1_000_003])
def test_results_larger_than_the_caches(neurons: int, threads: int) -> None:
    """They are stored past the caches, in rows that start anywhere: the same bits as in parts that are not."""
    before = torch.get_num_threads()
    x = torch.randn(5, 1, neurons, generator=torch.Generator().manual_seed(neurons))
    c = NeuronCoefficients(
        *(torch.tensor([value]) for value in (0.9, 0.6, 0.01)),
        threshold=torch.tensor([0.5]),
        v_reset=torch.tensor([0.1]),
    )
    try:
        torch.set_num_threads(threads)
        whole, state, _ = native.neuron([x], c, NeuronState(torch.zeros(1, neurons)), Surrogate())
    finally:
        torch.set_num_threads(before)
    for start in range(0, neurons, 250_000):
        part = x[..., start : start + 250_000].contiguous()
        owed, after, _ = native.neuron([part], c, NeuronState(torch.zeros(1, part.shape[-1])), Surrogate())
        assert torch.equal(whole[..., start : start + 250_000], owed), start
        assert torch.equal(state.v[..., start : start + 250_000], after.v), start
