// A CUDA graph that is replayed without Python code, but for the calls of torch that do it.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

namespace neurocuda {

// What replays a graph on a stream: functions written in C.
struct Launch {
  pybind11::function current;  // the current stream, a number
  std::int64_t stream;         // on which the graph was replayed last
  pybind11::function replay;
  pybind11::function done;  // marks the end of the replay on that stream
  pybind11::object lock;    // held by whoever replays the graph
};

class CudaGraph {
 public:
  // The graph reads `inputs` and leaves `results`.
  CudaGraph(std::vector<at::Tensor> inputs, std::vector<at::Tensor> results, Launch launch)
      : inputs_(std::move(inputs)), results_(std::move(results)), launch_(std::move(launch)) {}

  // The results for inputs of the same kinds, in memory of their own; none where another stream is current
  // now.
  std::vector<at::Tensor> operator()(const std::vector<at::Tensor>& given) const;

 private:
  std::vector<at::Tensor> inputs_, results_;
  Launch launch_;
};

}  // namespace neurocuda
