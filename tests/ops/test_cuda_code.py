"""What nvcc makes of the CUDA kernels; `make cuda-check` asks it for more architectures. Nothing here runs on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import cuda_code
import pytest
import torch
from cuda_code import Kernel
from drawn import counts

pytestmark = pytest.mark.skipif(cuda_code.missing() is not None, reason=str(cuda_code.missing()))

ARCHITECTURES = cuda_code.ARCHITECTURES if os.environ.get("NEUROCUDA_FULL") == "1" else (90,)

# Kernels with one fault each, and one with none.
PLANTED = """
#include <cuda_runtime.h>
namespace neurocuda {
enum class Synapse { kNone, kUpdated, kPrevious };
namespace cuda {
struct Call { const float* x; float* y; long n; float a; };

template <Synapse synapse, bool flag, int steps, typename T> __global__ void good(Call call, const T* more) {
  const float4* x = reinterpret_cast<const float4*>(call.x);
  float4* y = reinterpret_cast<float4*>(call.y);
  const long i = blockIdx.x * long(blockDim.x) + threadIdx.x;
  float4 value[steps];
#pragma unroll
  for (int t = 0; t < steps; ++t) value[t] = x[i + t * call.n];
#pragma unroll
  for (int t = 0; t < steps; ++t) {
    value[t].x = __fadd_rn(__fmul_rn(value[t].x, call.a), float(more[t]));
    y[i + t * call.n] = value[t];
  }
}
template __global__ void good<Synapse::kPrevious, true, 8, unsigned char>(Call, const unsigned char*);

__global__ void divides(Call call) {
  call.y[threadIdx.x] = __fadd_rn(__fmul_rn(__fdiv_rn(call.x[threadIdx.x], call.a), call.a), 1.f);
}
__global__ void fuses(Call call) { call.y[threadIdx.x] = call.x[threadIdx.x] * call.a + 1.f; }
__global__ void fuses_and_divides(Call call) {
  call.y[threadIdx.x] = __fdiv_rn(call.x[threadIdx.x] * call.a + 1.f, call.a);
}
__global__ void may_fuse(Call call) {
  asm volatile("{ .reg .f32 t; mul.f32 t, %1, %2; st.global.f32 [%0], t; }" ::"l"(call.y), "f"(call.a), "f"(call.a));
}
__global__ void flushes(Call call) {
  float sum;
  asm volatile("add.rn.ftz.f32 %0, %1, %2;" : "=f"(sum) : "f"(call.a), "f"(call.x[0]));
  call.y[0] = sum;
}
__global__ void has_a_stack(Call call) {
  float value[64];
  for (int t = 0; t < 64; ++t) value[t] = call.x[t];
  for (int t = 0; t < call.n; ++t) value[int(call.x[t])] = 1.f;
  for (int t = 0; t < 64; ++t) call.y[t] = value[t];
}
__global__ void __launch_bounds__(1024, 2) spills(Call call) {
  float value[64];
#pragma unroll
  for (int t = 0; t < 64; ++t) value[t] = call.x[t * call.n];
  __syncthreads();
#pragma unroll
  for (int t = 0; t < 64; ++t) call.y[t * call.n] = value[63 - t];
}
}  // namespace cuda
}  // namespace neurocuda
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernel]:
    source = tmp_path_factory.mktemp("planted") / "planted.cu"
    source.write_text(PLANTED)
    return {kernel.kernel: kernel for kernel in cuda_code.kernels_of(source, 90)}


def test_what_is_planted_is_found(planted: dict[str, Kernel]) -> None:
    found = {name: [fault.split(": ")[1] for fault in cuda_code.faults(kernel)] for name, kernel in planted.items()}
    fused = ["a product and a sum in one rounding"]
    spilled = found.pop("spills")
    assert [fault.split(" bytes of ")[1] for fault in spilled] == ["registers spilled", "stack"]
    assert found == {
        "good<Previous, true, 8, unsigned char>": [],
        "divides": [],
        "fuses": fused,
        "fuses_and_divides": fused,
        "may_fuse": fused,
        "flushes": ["subnormal numbers flushed to zero"],
        "has_a_stack": ["256 bytes of stack"],
    }


def test_loads_and_stores_are_measured(planted: dict[str, Kernel]) -> None:
    good = planted["good<Previous, true, 8, unsigned char>"]
    assert (good.widest_load_bits, good.widest_store_bits) == (128, 128)
    assert good.loads_before_store >= 8
    narrow = planted["fuses"]
    assert (narrow.widest_load_bits, narrow.widest_store_bits, narrow.loads_before_store) == (32, 32, 1)
    assert planted["divides"].divides
    assert planted["divides"].ffma > 0, "a division takes some"
    assert not good.divides


def test_what_was_compiled_is_remembered_by_what_went_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    header, source = tmp_path / "twice.cuh", tmp_path / "twice.cu"
    header.write_text("__global__ void twice(float* x) { x[0] = __fadd_rn(x[0], x[0]); }\n")
    source.write_text('#include "twice.cuh"\n')
    first = cuda_code.cached(source, 90)
    with monkeypatch.context() as without:
        without.setattr(cuda_code, "kernels_of", None)
        assert cuda_code.cached(source, 90) == first
    header.write_text(header.read_text().replace("twice", "double_of"))
    assert [kernel.kernel for kernel in cuda_code.cached(source, 90)] == ["double_of"]


LAUNCH = """
#include <cstdio>
#include <exception>
#include "cuda/kernels.h"

int main() {
  neurocuda::PackParams call{};
  call.steps = 1;
  call.neurons = 8;
  try {
    neurocuda::cuda::pack_spikes(call, nullptr);
  } catch (const std::exception& error) {
    std::puts(error.what());
    return 3;
  }
}
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_launch_that_fails_says_which_kernel_and_why(tmp_path: Path) -> None:
    """Here it fails for want of a driver; the program knows nothing of CUDA, and no header of torch is needed."""
    main, program = tmp_path / "main.cpp", tmp_path / "main"
    main.write_text(LAUNCH)
    source = cuda_code.CSRC / "cuda" / "pack.cu"
    cuda_code.run("nvcc", *cuda_code.OPTIONS, "-arch=sm_80", f"-I{cuda_code.CSRC}", main, source, "-o", program)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert re.fullmatch(r"neurocuda: kernel pack\w+: CUDA driver .*\n|neurocuda: .*no CUDA-capable.*\n", done.stdout)


@pytest.mark.first
def test_no_kernel_has_a_fault_and_the_table_is_that_of_these_kernels() -> None:
    """Registers and numbers of instructions are those of one compiler: `make cuda-check` writes them anew."""
    kernels = cuda_code.everything(ARCHITECTURES)
    counts["CUDA kernels compiled, for each architecture"] += len(kernels)
    assert [fault for kernel in kernels for fault in cuda_code.faults(kernel)] == []
    for kernel in kernels:
        if "_wide" in kernel.kernel:  # neighbours as they lie; packed bits are bytes
            assert 128 in (kernel.widest_load_bits, kernel.widest_store_bits), kernel
        if "_staged" in kernel.kernel:  # one neuron a thread: what keeps memory busy is many loads at a time
            assert kernel.loads_before_store >= 8, kernel
    rows = cuda_code.read()
    for architecture in cuda_code.ARCHITECTURES:
        written = {(row["source"], row["kernel"]) for row in rows if row["architecture"] == str(architecture)}
        assert written == {(kernel.source, kernel.kernel) for kernel in kernels}, "make cuda-check"
    for row in rows:
        assert (row["spilled_bytes"], row["stack_bytes"], row["fma_in_ptx"], row["ftz_in_ptx"]) == ("0",) * 4, row
        assert row["divides"] == "yes" or row["ffma"] == "0", row


def test_a_count_that_is_no_number_is_none(tmp_path: Path) -> None:
    """nvcc knows that a count is never negative, and drops a comparison with zero that NaN would fail."""
    source = tmp_path / "count.cu"
    source.write_text(
        '#include "cuda/elements.cuh"\n#include "neuron_update.h"\n'
        "__global__ void count(const float* u, unsigned* spikes, float threshold) {\n"
        "  spikes[0] = neurocuda::cuda::spike_count(neurocuda::spikes_of<neurocuda::Fires::kMany>(u[0], threshold));\n"
        "}\n"
    )
    ptx = cuda_code.run("nvcc", "-ptx", *cuda_code.OPTIONS, f"-I{cuda_code.CSRC}", "-arch=sm_90", source, "-o", "-")
    assert "min.u32" in ptx
    assert "min.f32" not in ptx, "which takes the number of a number and NaN"
