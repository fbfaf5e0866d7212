// Chooses the variant and the launch configuration of a recurrent population from its shape and the device's
// limits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/launch_config.cuh"
#include "params/ordered_linear.h"
#include "params/recurrent_neuron.h"

namespace neurocuda::cuda {

enum class RecurrentVariant {
  kShared,  // a block has some samples for all time steps, with the weights in its shared memory
  kGlobal,  // the same with the weights in global memory, read through the caches
  kGrid,    // columns are distributed over resident blocks, each with its weights in shared memory
  kSteps,   // columns are distributed over blocks, with a launch per time step
};

struct RecurrentPlan {
  RecurrentVariant variant;
  int samples;  // per block; kGrid: one per warp
  int threads;  // kShared, kGlobal: per sample
  int groups;   // kGrid: groups of samples; each has blocks with all weights
  int shared;   // bytes of dynamic shared memory
  int words;    // of 32 neurons, per sample
};

constexpr int kMaxThreads = 512;  // per block: more would leave too few registers for eight branches
constexpr int kStepWarps = 8;     // per block of the kernels with a launch per step

// Bytes of the SampleSpikes of one sample: values and neurons, in groups of four, and a mask per warp.
NEUROCUDA_HOST_DEVICE constexpr int spikes_bytes(int neurons) {
  const int quads = (neurons + 3) / 4, words = (neurons + 31) / 32;
  return (quads * 4 * (2 + 4) + words * 4 + 15) / 16 * 16;
}

NEUROCUDA_HOST_DEVICE constexpr std::int64_t matrix_bytes(std::int64_t rows, std::int64_t columns) {
  return (rows * columns * 4 + 15) / 16 * 16;
}

// A time step of one sample with N neurons, of which one in eight spiked, adds N / 8 rows of N weights:
//
//   kShared  reads 32 weights per cycle: the fastest if they fit. N <= 240 with 227 KB of shared memory
//            (sm_90), 203 with 163 KB (sm_80), 127 with 64 KB (sm_75).
//
//   kGlobal  reads 16 per cycle, or is bound by the bandwidth of the L2 cache: N * N / 128 cycles, 2000 for
//            N = 512. One thread per neuron: N <= 512.
//
//   kGrid    takes a few cycles per row, for any N, and about 2500 for the grid barrier: faster than kGlobal
//            from N = 512 on. 32 columns must fit: N <= 1800 (sm_90).
//
//   kSteps   takes a launch per step, which costs more than the barrier, for any N.
//
// Blocks: one per multiprocessor first, then more samples per block, so that warps hide each other's latency.
// Neither the variant nor the number of blocks changes the bits.
inline RecurrentPlan recurrent_plan(std::int64_t samples, std::int64_t neurons, std::int64_t matrices,
                                    const DeviceLimits& limits) {
  RecurrentPlan plan{};
  const std::int64_t rows = samples / matrices, words = (neurons + 31) / 32;
  plan.words = static_cast<int>(words);
  if (neurons <= kMaxThreads) {
    const std::int64_t spikes = spikes_bytes(static_cast<int>(neurons)),
                       matrix = matrix_bytes(neurons, neurons);
    const bool fits = matrix + spikes <= limits.shared_memory;
    const std::int64_t weight = fits ? matrix : 0;
    const std::int64_t balanced = (samples + limits.multiprocessors - 1) / limits.multiprocessors;
    plan.variant = fits ? RecurrentVariant::kShared : RecurrentVariant::kGlobal;
    plan.threads = static_cast<int>(32 * words);
    plan.samples = static_cast<int>(
        std::min({balanced, rows, kMaxThreads / (32 * words), (limits.shared_memory - weight) / spikes}));
    plan.shared = static_cast<int>(weight + plan.samples * spikes);
    return plan;
  }
  plan.variant = RecurrentVariant::kSteps;
  const std::int64_t slice = matrix_bytes(neurons, 32), blocks = limits.multiprocessors / (matrices * words);
  if (limits.cooperative && slice <= limits.shared_memory && blocks > 0) {
    plan.variant = RecurrentVariant::kGrid;
    plan.groups = static_cast<int>(std::min(rows, blocks));
    plan.samples =
        static_cast<int>(std::min<std::int64_t>(kMaxThreads / 32, (rows + plan.groups - 1) / plan.groups));
    plan.shared = static_cast<int>(slice);
  }
  return plan;
}

// Bytes of the SpikeExchange: the spikes of two time steps of every sample, as masks and as values, and the
// counter of the grid barrier.
inline std::size_t scratch_of(const RecurrentPlan& plan, const RecurrentParams& params) {
  if (plan.variant == RecurrentVariant::kShared || plan.variant == RecurrentVariant::kGlobal) return 0;
  const std::int64_t masks = 2 * params.samples * plan.words, values = 2 * params.samples * params.neurons;
  return static_cast<std::size_t>(16 + 4 * (masks + values));
}

}  // namespace neurocuda::cuda
