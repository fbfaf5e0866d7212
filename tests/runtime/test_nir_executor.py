"""The network as a torch module: dtypes, state_dict, copies, edits of parameters."""

from __future__ import annotations

import copy
import pickle
import pickletools
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from raw_nodes import NEURONS, Raw, chain, everything, graph, node, ramp, terminal
from stateful import built, busy, drive, network
from torch import Tensor, nn

from neurocuda import Executor, Surrogate
from neurocuda.compiler.grids import InputGrid


def run(net: Executor, seed: int = 0) -> Tensor:
    with torch.no_grad():
        y, _ = net(drive(12, 2, net.graph.nodes["in"].output_shape, seed))
    assert isinstance(y, Tensor)
    return y


def exact(net: Executor) -> dict[str, bytes]:
    """The bits of the neuron parameters."""
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {n: t.detach().numpy().tobytes() for n, t in named.items() if t.dtype == torch.float64 and n != "w:weight"}


THIRDS = {"r": 1 / 3, "v_leak": 1e-17, "v_threshold": 1 / 7, "v_reset": -1 / 9, "tau": 1e-3 / 3}
THIRDS |= {"tau_syn": 2e-3 / 3, "tau_mem": 1e-3 / 7, "w_in": 1 / 11}


def fan(nodes: dict[str, Raw], first: str = "in") -> Raw:
    """in -> each node -> out; with `first`, in -> first -> each other node -> out."""
    raw = chain(nodes)
    edges = [(first, name) for name in nodes if name != first] + [(name, "out") for name in nodes if name != first]
    return {**raw, "edges": edges if first == "in" else [("in", first), *edges]}


def precise() -> Raw:
    """All neurons, with parameters that no narrower dtype represents, after a weight on a grid."""
    nodes = {f"n_{kind}": node(kind, **{f: v for f, v in THIRDS.items() if f in node(kind)}) for kind in NEURONS}
    nodes |= {"t": node("Threshold", threshold=1e-9 + 1 / 3), "d": node("Delay", delay=np.array([1e-4, 2e-4, 3e-4]))}
    return fan({"w": node("Linear", weight=ramp(3, 3) + 0.5), **nodes}, "w")


CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": lambda net: net.half(),
    "bfloat16": lambda net: net.to(torch.bfloat16),
    "double": lambda net: net.double(),
    "float": lambda net: net.float(),
    "float16 and the device": lambda net: net.to("cpu", torch.float16),
    "type": lambda net: net.type(torch.bfloat16),
    "there and back": lambda net: net.half().double().bfloat16().float(),
    "inside another": lambda net: nn.Sequential(nn.ModuleList([net])).half()[0][0],
}


@pytest.mark.parametrize("learn", [(), ("tau", "r", "v_threshold")])
@pytest.mark.parametrize("name", CASTS)
def test_casts_leave_the_parameters_of_neurons_alone(name: str, learn: tuple[str, ...]) -> None:
    net = network(precise(), learn=learn)
    before, output = exact(net), run(net)
    types = {n: t.dtype for n, t in [*net.named_parameters(), *net.named_buffers()] if not n.startswith("w:")}
    cast = CASTS[name](net)
    assert cast is net
    assert exact(net) == before
    assert len(before) == 25
    after = {n: t.dtype for n, t in [*net.named_parameters(), *net.named_buffers()] if not n.startswith("w:")}
    assert after == types
    for parameter in net.parameters():
        assert isinstance(parameter, nn.Parameter)
        assert parameter.requires_grad
    found = run(net)
    assert found.dtype == torch.float32
    assert torch.equal(found, output)  # every dtype represents the grid of the weights


def test_a_cast_rounds_the_weights() -> None:
    raw = chain({"w": node("Linear", weight=np.full((3, 3), 1 / 3, np.float32))})
    net = network(raw).half()
    assert net.get_parameter("w:weight").dtype == torch.float16
    expected = network(raw)
    with torch.no_grad():
        expected.get_parameter("w:weight").copy_(torch.tensor(1 / 3).half().float())
    assert torch.equal(run(net), run(expected))


def test_gradients_have_the_dtype_of_their_parameters_after_a_cast() -> None:
    net = network(precise(), learn=("tau",))
    net(drive(20, 2).requires_grad_())[0].sum().backward()
    net.half()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == parameter.dtype, name
    torch.optim.SGD(net.parameters(), lr=1e-9).step()
    net.zero_grad()
    net(drive(20, 2))[0].sum().backward()


NAMES = ("a.b", "a/b", "a~b", "a~1b", "a~0b", "~", "~0", "~1", ".", "..", "/", "a.b.c", "a:weight", ":", " ", "", "層")
NAMES += ("type", "keys", "forward", "training", "graph", "chunk", "weight", "_parameters", "__class__", "None", "0")


def oddly_named(names: tuple[str, ...] = NAMES) -> Raw:
    """Alternately a LIF and a weight with each name."""
    lif = [node("LIF", tau=2e-4 * (k + 1), v_threshold=0.1) for k in range(len(names))]
    linear = [node("Linear", weight=np.eye(3) * (k + 1)) for k in range(len(names))]
    return fan({name: linear[k] if k % 2 else lif[k] for k, name in enumerate(names)})


def test_nodes_may_have_any_name() -> None:
    net = network(oddly_named())
    assert set(net.graph.nodes) == {*NAMES, "in", "out"}
    assert len(net.state_dict()) == sum(1 if k % 2 else 5 for k in range(len(NAMES)))
    plain = network(oddly_named(tuple(f"n{k}" for k in range(len(NAMES)))))
    assert torch.equal(run(net), run(plain))  # integers: their sum is the same in any order of names
    for k, name in enumerate(NAMES):
        found, expected = (
            one.run(drive(3, 1), record={n: "output"}).recordings[n]["output"]
            for one, n in ((net, name), (plain, f"n{k}"))
        )
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("make", [oddly_named, busy, everything, precise])
@pytest.mark.parametrize("learn", [(), ("tau", "r")])
def test_a_state_dict_carries_everything(make: Callable[[], Raw], learn: tuple[str, ...]) -> None:
    changed = network(make())
    with torch.no_grad():
        for tensor in changed.state_dict().values():
            tensor.mul_(1.25)
    file = BytesIO()
    torch.save(changed.state_dict(), file)
    file.seek(0)
    net = network(make(), learn=learn)
    before = run(net)
    report = net.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert not report.missing_keys
    assert not report.unexpected_keys
    found, expected = run(net), run(changed)
    assert not torch.equal(before, expected)
    assert torch.equal(found, expected)
    for name, tensor in changed.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor)


def test_names_in_the_state_dict() -> None:
    net = network(
        chain({"g.w": node("Affine", weight=ramp(3, 3), bias=ramp(3)), "n": node("LIF"), "s": node("Scale")}),
        learn=("tau",),
    )
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    assert set(parameters) == {"g/w:weight", "g/w:bias", "n:tau", "s:scale"}
    assert set(buffers) == {"n:r", "n:v_leak", "n:v_threshold", "n:v_reset"}
    assert {t.dtype for n, t in parameters.items() if n != "n:tau"} == {torch.float32}
    assert {t.dtype for t in [parameters["n:tau"], *buffers.values()]} == {torch.float64}


COPIES: dict[str, Callable[[Executor], Executor]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": lambda net: saved_and_loaded(net),
    "copy of a copy": lambda net: copy.deepcopy(copy.deepcopy(net)),
}


def saved_and_loaded(net: Executor) -> Executor:
    file = BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("learn", [(), ("tau", "tau_mem")])
@pytest.mark.parametrize("name", COPIES)
def test_copies_compute_the_same_and_share_nothing(name: str, learn: tuple[str, ...], called: bool) -> None:
    net = network(busy(), learn=learn, chunk=5)
    if called:
        net(drive(3, 2))
    other = COPIES[name](net)
    assert (other.chunk, other.discretization, other.surrogate) == (net.chunk, net.discretization, net.surrogate)
    assert str(other) == str(net)
    expected = run(net)
    assert torch.equal(run(other), expected)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.mul_(0.5)
    assert torch.equal(run(net), expected)
    assert not torch.equal(run(other), expected)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_pickle_names_what_a_network_is_made_from(frozen: bool) -> None:
    """A pickle has graph, settings and parameters only, so that moved modules do not break it."""
    net = network(busy(), frozen=frozen, surrogate=Surrogate("arctan"), input_grid=InputGrid(low=-1))
    net(drive(3, 2))
    strings = [value for _, value, _ in pickletools.genops(pickle.dumps(net)) if isinstance(value, str)]
    assert {value for value in strings if value.startswith("neurocuda")} == {
        "neurocuda.compiler.grids",
        "neurocuda.discretization.settings",
        "neurocuda.graph.model",
        "neurocuda.ops.surrogate",
        "neurocuda.runtime.nir_executor",
    }


def test_a_copy_keeps_what_was_set_on_the_network() -> None:
    net = network(busy(), learn="tau", chunk=5).eval()
    net.cuda_graph, net.chunk = False, 9
    net.get_parameter("w_in:weight").requires_grad_(False)
    net.register_buffer("of_a_user", torch.ones(2))
    with torch.no_grad():
        net.get_parameter("w_in:weight").mul_(0.5)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert (other.cuda_graph, other.chunk, other.training) == (False, 9, False)
        assert not other.get_parameter("w_in:weight").requires_grad
        assert other.state_dict().keys() == net.state_dict().keys()
        assert torch.equal(run(other), run(net))


def halved(net: Executor, name: str) -> Tensor:
    """The output after a parameter of `busy` is halved."""
    fresh = network(busy())
    with torch.no_grad():
        fresh.state_dict()[name].copy_(net.state_dict()[name] / 2)
    return run(fresh)


EDITED = ("a:tau_mem", "a:v_threshold", "li:r", "w_in:weight", "damp:scale")


def in_place(net: Executor, name: str) -> None:
    with torch.no_grad():
        net.state_dict(keep_vars=True)[name].mul_(0.5)


def through_data(net: Executor, name: str) -> None:
    net.state_dict(keep_vars=True)[name].data.mul_(0.5)


def through_detach(net: Executor, name: str) -> None:
    net.state_dict()[name].mul_(0.5)


def through_numpy(net: Executor, name: str) -> None:
    array = net.state_dict()[name].numpy()
    array *= 0.5


def new_data(net: Executor, name: str) -> None:
    tensor = net.state_dict(keep_vars=True)[name]
    tensor.data = tensor.data / 2


def by_state_dict(net: Executor, name: str) -> None:
    net.load_state_dict({name: net.state_dict()[name] / 2}, strict=False)


def assigned(net: Executor, name: str) -> None:
    net.load_state_dict({name: net.state_dict()[name] / 2}, strict=False, assign=True)


def another(net: Executor, name: str) -> None:
    """Replaces a parameter by a new tensor, many times, so that one reuses the memory of the first."""
    old = net.state_dict()[name].clone()
    held = name in dict(net.named_parameters())
    for k in range(20, 0, -1):
        setattr(net, name, nn.Parameter(old / 2 * k) if held else old / 2 * k)


EDITS = [in_place, through_data, through_detach, through_numpy, new_data, by_state_dict, assigned, another]


@pytest.mark.parametrize("learn", [(), ("tau_mem", "tau_syn", "v_threshold", "r")])
@pytest.mark.parametrize("name", EDITED)
@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_of_a_parameter_is_seen(
    edit: Callable[[Executor, str], None], name: str, learn: tuple[str, ...]
) -> None:
    net = network(busy(), learn=learn)
    before = run(net)
    expected = halved(net, name)
    assert not torch.equal(expected, before)
    edit(net, name)
    assert torch.equal(run(net), expected)


@pytest.mark.parametrize("name", ["a:tau_mem", "li:tau", "w_in:weight"])
def test_functional_calls_use_the_given_parameters(name: str) -> None:
    net = network(busy())
    x = drive(12, 2)
    before = run(net)
    value = net.state_dict()[name].clone()
    for k in range(6):
        with torch.no_grad():
            found, _ = torch.func.functional_call(net, {name: value * (1 + k / 4)}, (x,))
        fresh = network(busy())
        fresh.load_state_dict({name: value * (1 + k / 4)}, strict=False)
        assert torch.equal(found, run(fresh)), k
    assert torch.equal(run(net), before)


def test_edits_do_not_reach_the_graph() -> None:
    graph_ = built(busy())
    before = pickle.dumps(graph_)
    net = Executor(graph_)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(0.125)
    run(net)
    assert pickle.dumps(graph_) == before
    assert torch.equal(run(Executor(graph_)), run(network(busy())))


@pytest.mark.parametrize("learn", [(), ("tau_mem",)])
def test_inference_mode_at_any_time(learn: tuple[str, ...]) -> None:
    """Networks are created and run in inference mode and trained afterwards."""
    expected = run(network(busy()))
    with torch.inference_mode():
        made_there = network(busy(), learn=learn)
        assert torch.equal(made_there(drive(12, 2))[0], expected)
    assert torch.equal(run(made_there), expected)
    net = network(busy(), learn=learn)
    with torch.inference_mode():
        assert torch.equal(net(drive(12, 2))[0], expected)
    x = drive(12, 2).requires_grad_()
    y, _ = net(x)
    assert torch.equal(y, expected)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_a_run_without_gradients_does_not_spoil_one_with_them() -> None:
    """Validation, then training."""
    grads = []
    for look in (False, True):
        net = network(busy(), learn=("tau_mem", "r"))
        if look:
            run(net)
        net(drive(12, 2))[0].sum().backward()
        grads.append({name: p.grad for name, p in net.named_parameters()})
    for name, expected in grads[0].items():
        assert expected is not None, name
        assert grads[1][name] is not None, name
        assert torch.equal(grads[1][name], expected), name


@pytest.mark.parametrize("make", [busy, everything, precise])
def test_modes_change_no_bit(make: Callable[[], Raw]) -> None:
    net = network(make(), learn=("r",))
    x = drive(12, 2, net.graph.nodes["in"].output_shape)
    expected = run(net)
    assert torch.equal(net(x)[0], expected)
    assert torch.equal(net(x.clone().requires_grad_())[0], expected)
    assert torch.equal(net.eval()(x)[0], expected)
    assert torch.equal(net.train()(x)[0], expected)
    assert torch.equal(net.requires_grad_(False)(x)[0], expected)
    assert not net(x)[0].requires_grad


def test_registered_parameters_and_buffers() -> None:
    net = network(everything())
    weighted = {
        f"{n}:{f}" for n, v in net.graph.nodes.items() for f in ("weight", "bias", "scale") if f in v.parameters
    }
    assert {name for name, _ in net.named_parameters()} == weighted
    neurons = [v for v in net.graph.nodes.values() if v.primitive.is_neuron or v.primitive.emits_spikes]
    assert {name for name, _ in net.named_buffers() if not name.endswith(":steps")} == {
        f"{v.name}:{field}" for v in neurons for field in v.parameters
    }
    assert not [name for name in net.state_dict() if name.endswith(":steps")]  # they are computed from the graph and dt


def test_it_prints_its_schedule() -> None:
    text = str(network(busy()))
    assert str(network(busy()).schedule).splitlines()[3].strip() in text
    for word in ("recurrent", "a*", "w_in + w_rec", "dt=0.0001"):
        assert word in text, word


def test_a_graph_without_parameters_is_a_module_too() -> None:
    raw = graph({"in": terminal("Input", (3,)), "out": terminal("Output", (3,))}, [("in", "out")])
    net = copy.deepcopy(network(raw)).half()
    assert not net.state_dict()
    assert torch.equal(run(net), drive(12, 2))
