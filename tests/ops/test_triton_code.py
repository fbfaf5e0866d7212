"""What Triton's compiler makes of the kernels, without a driver, for sm_80 and sm_90; and how often it compiles.

Nothing here runs on a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any

import pytest
import torch
from drawn import counts

if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("no compiler of Triton here", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from neurocuda.ops import NeuronCoefficients, NeuronState, Surrogate
from neurocuda.ops import triton as ops
from neurocuda.ops.triton import neurons, ordered, pool2d, recurrent, spike_bits

Launch = tuple[Any, tuple[object, ...], dict[str, Any]]
NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "u8", "bool": "u1", "int64": "i64"}
ALIGNED = [["tt.divisibility", 16]]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Every launch of a kernel, with its arguments; none is carried out."""
    found: list[Launch] = []

    def keep(kernel: Any, programs: int, device: torch.device, *arguments: object, **constants: Any) -> None:
        found.append((kernel, arguments, constants))

    for module in (spike_bits, neurons, ordered, pool2d, recurrent):
        monkeypatch.setattr(module, "launch", keep)
    return found


def described(kernel: Any, arguments: tuple[object, ...], constants: dict[str, Any]) -> ASTSource:
    """A launch as the compiler takes it: types, constants, and 16-byte alignment of what torch allocates."""
    signature: dict[str, Any] = {}
    fixed: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def describe(value: object, path: tuple[int, ...], annotation: str) -> Any:
        if isinstance(value, tuple | list):
            return tuple(describe(each, (*path, number), "") for number, each in enumerate(value))
        if isinstance(value, torch.Tensor):
            attributes[path] = ALIGNED
            return "*" + NAMES[str(value.dtype).removeprefix("torch.")]
        if value is None:
            fixed[path] = None
            return "constexpr"
        if isinstance(value, float):
            return "fp32"
        return "i64" if "int64" in annotation else "i32"

    for number, parameter in enumerate(kernel.params):
        if parameter.name in constants:
            signature[parameter.name] = "constexpr"
            fixed[number,] = constants[parameter.name]
        else:
            signature[parameter.name] = describe(arguments[number], (number,), str(parameter._param.annotation))
    return ASTSource(kernel, signature, fixed, attributes)


def assembly(launch: Launch, capability: int) -> str:
    """The PTX for an architecture."""
    compiled = triton.compile(
        described(*launch), target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False}
    )
    assert compiled.asm["cubin"], "ptxas makes machine code of it"
    counts["triton kernels compiled"] += 1
    text: str = compiled.asm["ptx"]
    assert ".ftz" not in text, launch
    return text


def population(many: bool = False, dtype: torch.dtype = torch.float32, size: int = 4096, count: int = 2) -> Any:
    one = torch.ones(())
    fields: Any = {"spike_when": "reaching", "reset": "subtract", "spikes_per_step": "many"} if many else {}
    c = NeuronCoefficients(one, one, one, one, one, one, one, **fields)
    state = NeuronState(torch.zeros(2, size), torch.zeros(2, size))
    return [torch.ones(9, 2, size, dtype=dtype) for _ in range(count)], c, state


OUTPUTS: list[tuple[torch.dtype, torch.dtype | None, bool]] = [
    (torch.float32, torch.float32, False),
    (torch.float32, torch.uint8, False),
    (torch.float16, None, False),
    (torch.bfloat16, None, False),
    (torch.float16, torch.uint8, False),
    (torch.float16, None, True),
]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("dtype", "output", "packed"), OUTPUTS, ids=str)
def test_the_neuron_moves_sixteen_bytes_at_a_time(
    capability: int, dtype: torch.dtype, output: torch.dtype | None, packed: bool, launches: list[Launch]
) -> None:
    branches, c, state = population(dtype=dtype)
    ops.neuron(branches, c, state, Surrogate(), dtype=output, packed=packed)
    text = assembly(launches[-1], capability)
    loads = re.findall(r"ld\.global(?:\.\w+)*\.v4\.b32", text)
    assert len(loads) >= 8, "four steps of two branches, each 16 bytes"
    first_store = text.index("st.global")
    assert len(re.findall(r"ld\.global(?:\.\w+)*\.v4\.b32", text[:first_store])) >= 8, "loads wait for no store"
    if dtype == torch.float32 and output == torch.float32:
        assert re.search(r"st\.global(?:\.\w+)*\.v4\.b32", text)
    assert not re.search(r"\bfma\b", text), "a product and a sum in one rounding"


@pytest.mark.parametrize("capability", [80, 90])
def test_no_kernel_fuses_a_product_and_a_sum(capability: int, launches: list[Launch]) -> None:
    branches, c, state = population()
    image = torch.ones(2, 4, 9, 9)
    ops.branch_sum(branches)
    ops.pack_spikes(branches[0])
    ops.unpack_spikes(torch.ones(9, 1024, dtype=torch.uint8), (2, 4096))
    ops.ordered_linear(torch.ones(7, 33), torch.ones(5, 33), torch.ones(5))
    ops.ordered_conv(image, torch.ones(6, 2, 3, 3), torch.ones(6), (1, 1), ((1, 1), (1, 1)), (1, 1), 2)
    ops.sum_pool2d(image, (2, 2), (2, 2), (0, 0))
    branches, c, state = population(size=100)
    ops.recurrent_neuron(branches, 1, torch.ones(100, 100), torch.ones(100), c, state, state.v, Surrogate(), ["v"])
    found = {launch[0].__name__ for launch in launches}
    assert len(found) == len(launches) == 7, found
    for launch in launches:
        text = assembly(launch, capability)
        assert not re.search(r"\bfma\b", text), launch[0]
        if launch[0].__name__ == "recurrent_kernel":
            assert "bar.sync" in text, "threads read each other's spikes"
            assert ".nc" not in text, "nor through a cache that does not see them"


@pytest.mark.parametrize("capability", [80, 90])
def test_divisions_are_those_of_ieee(capability: int, launches: list[Launch]) -> None:
    branches, c, state = population(many=True)
    branches[0].requires_grad_()
    ops.avg_pool2d(torch.ones(2, 4, 9, 9), (3, 3), (2, 2), (0, 0))
    output, _, _ = ops.neuron(branches, c, state, Surrogate())
    output.sum().backward()
    assert [launch[0].__name__ for launch in launches] == [
        "pool_kernel", "neuron_kernel", "neuron_kernel", "neuron_backward_kernel"
    ]  # fmt: skip
    for launch in launches:
        text = assembly(launch, capability)
        assert "div.rn.f32" in text
        assert not re.search(r"div\.(full|approx)|\bfma\b", text)


def specialised(kernel: Any, arguments: tuple[object, ...], constants: dict[str, Any]) -> str:
    """What Triton looks a compiled kernel up by."""
    from triton.runtime.jit import create_function_from_signature

    backend = triton.compiler.make_backend(GPUTarget("cuda", 90, 32))
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    _, specialization, options = bind(*arguments, **constants, debug=False)
    return str(specialization) + str(options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8], ids=str)
def test_twenty_batch_sizes_compile_at_most_twice(dtype: torch.dtype, launches: list[Launch]) -> None:
    one = torch.ones(())
    c = NeuronCoefficients(one, torch.rand(3), one, threshold=one, v_reset=one)
    keys: dict[str, set[str]] = {}
    for batch in [*range(1, 17), 31, 32, 100, 1024]:
        for shape in ((batch, 3), (batch, 16, 3), (batch, 1)):
            branches = [torch.ones(6, *shape, dtype=dtype)] * 2
            state = NeuronState(torch.zeros(shape))
            own = c if shape[-1] == 3 else NeuronCoefficients(one, one, one, threshold=one, v_reset=one)
            ops.neuron(branches, own, state, Surrogate())
            ops.branch_sum(branches)
            ops.ordered_linear(branches[0].flatten(0, -2), torch.ones(5, shape[-1]), None)
            ops.recurrent_neuron(
                branches, 0, torch.ones(*shape[1:], shape[-1]), None, own, state, state.v, Surrogate()
            ) if len(shape) == 2 and shape[-1] == 3 else None
        image = torch.ones(batch, 3, 8, 8).to(dtype)
        ops.sum_pool2d(image, (2, 2), (2, 2), (0, 0))
        ops.ordered_conv(image, torch.ones(4, 3, 3, 3), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
        ops.pack_spikes(image)
        for launch in launches:
            keys.setdefault(launch[0].__name__, set()).add(specialised(*launch))
        launches.clear()
    assert len(keys) == 7
    assert {name: len(found) for name, found in keys.items() if len(found) > 2} == {}
    assert len(keys["neuron_kernel"]) == 2, "sizes that 16 divides, and others"
