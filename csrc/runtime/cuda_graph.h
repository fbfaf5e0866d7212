// A CUDA graph that is replayed without Python code, except torch's own functions.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

namespace neurocuda {

// Functions of torch, written in C, that replay a graph on a stream.
struct Launch {
  pybind11::function current;  // returns the current stream
  std::int64_t stream;         // of the last replay
  pybind11::function replay;
  pybind11::function done;  // marks the end of the replay on the stream
  pybind11::object lock;    // acquired for a replay
};

class CudaGraph {
 public:
  // The graph reads `inputs` and writes `results`.
  CudaGraph(std::vector<at::Tensor> inputs, std::vector<at::Tensor> results, Launch launch)
      : inputs_(std::move(inputs)), results_(std::move(results)), launch_(std::move(launch)) {}

  // The results for inputs of the same metadata, in new memory; empty if another stream than that of the last
  // replay is current.
  std::vector<at::Tensor> operator()(const std::vector<at::Tensor>& given) const;

 private:
  std::vector<at::Tensor> inputs_, results_;
  Launch launch_;
};

}  // namespace neurocuda
