// How a recurrent population is run: by its shape and the limits of the device alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/limits.cuh"
#include "params/ordered_linear.h"
#include "params/recurrent_neuron.h"

namespace neurocuda::cuda {

enum class RecurrentWay {
  kShared,  // a block runs some samples over all steps, with the weight in its shared memory
  kGlobal,  // the same, with the weight where it lies: the caches hold it
  kGrid,    // columns are spread over blocks that run all at once, each with its weights in shared memory
  kSteps,   // columns are spread over blocks, and every step is a launch
};

struct RecurrentPlan {
  RecurrentWay way;
  int samples;  // that a block runs side by side; kGrid: one for each of its warps
  int threads;  // kShared, kGlobal: of a sample
  int groups;   // kGrid: of samples; each has blocks with all the weights
  int shared;   // bytes of dynamic shared memory
  int words;    // of a sample: 32 neurons each
};

constexpr int kMostThreads = 512;  // of a block: with more, registers would not do for eight branches
constexpr int kSpreadWarps = 8;    // of a block that is launched for a step

// What a block remembers of the spikes of a sample: their values and neurons, in quads, and a mask for each
// warp.
NEUROCUDA_HOST_DEVICE constexpr int spikes_bytes(int neurons) {
  const int quads = (neurons + 3) / 4, words = (neurons + 31) / 32;
  return (quads * 4 * (2 + 4) + words * 4 + 15) / 16 * 16;
}

NEUROCUDA_HOST_DEVICE constexpr std::int64_t matrix_bytes(std::int64_t rows, std::int64_t columns) {
  return (rows * columns * 4 + 15) / 16 * 16;
}

// A step of one sample with N neurons, of which one in eight spiked, adds N / 8 rows of N weights:
//
//   kShared  reads 32 weights a cycle. Where they fit, nothing is faster: N <= 240 with 227 KB of shared
//   memory
//            (sm_90), 203 with 163 KB (sm_80), 127 with 64 KB (sm_75).
//   kGlobal  reads 16 a cycle, or what all multiprocessors together get out of the second-level cache:
//            N * N / 128 cycles, 2000 for N = 512. One thread a neuron: no more than N = 512.
//   kGrid    takes a few cycles for each row, whatever N, and some 2500 in which all blocks wait for one
//            another: better than kGlobal from N = 512 on. 32 columns have to fit: N <= 1800 (sm_90).
//   kSteps   takes a launch, which costs more than the barrier, but any N will do.
//
// Blocks: first each multiprocessor gets one, then each of them more samples, as warps that wait fill the
// time of others. Which way and how many blocks are of no account to the bits.
inline RecurrentPlan recurrent_plan(std::int64_t samples, std::int64_t neurons, std::int64_t matrices,
                                    const DeviceLimits& limits) {
  RecurrentPlan plan{};
  const std::int64_t rows = samples / matrices, words = (neurons + 31) / 32;
  plan.words = static_cast<int>(words);
  if (neurons <= kMostThreads) {
    const std::int64_t each = spikes_bytes(static_cast<int>(neurons)), all = matrix_bytes(neurons, neurons);
    const bool fits = all + each <= limits.shared_memory;
    const std::int64_t weight = fits ? all : 0;
    const std::int64_t wanted = (samples + limits.multiprocessors - 1) / limits.multiprocessors;
    plan.way = fits ? RecurrentWay::kShared : RecurrentWay::kGlobal;
    plan.threads = static_cast<int>(32 * words);
    plan.samples = static_cast<int>(
        std::min({wanted, rows, kMostThreads / (32 * words), (limits.shared_memory - weight) / each}));
    plan.shared = static_cast<int>(weight + plan.samples * each);
    return plan;
  }
  plan.way = RecurrentWay::kSteps;
  const std::int64_t slice = matrix_bytes(neurons, 32), blocks = limits.multiprocessors / (matrices * words);
  if (limits.cooperative && slice <= limits.shared_memory && blocks > 0) {
    plan.way = RecurrentWay::kGrid;
    plan.groups = static_cast<int>(std::min(rows, blocks));
    plan.samples =
        static_cast<int>(std::min<std::int64_t>(kMostThreads / 32, (rows + plan.groups - 1) / plan.groups));
    plan.shared = static_cast<int>(slice);
  }
  return plan;
}

// Memory that a launch needs besides: of every sample the spikes of a step and of the next, as masks and as
// values, and the count of blocks at the barrier.
inline std::size_t scratch_of(const RecurrentPlan& plan, const RecurrentParams& call) {
  if (plan.way == RecurrentWay::kShared || plan.way == RecurrentWay::kGlobal) return 0;
  const std::int64_t masks = 2 * call.samples * plan.words, values = 2 * call.samples * call.neurons;
  return static_cast<std::size_t>(16 + 4 * (masks + values));
}

}  // namespace neurocuda::cuda
