// faults NAME 0|1: runs the kernel NAME without its fault (0) or with it (1).
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "misaligned.cuh"
#include "missed_barrier.cuh"
#include "missing_lane.cuh"
#include "no_barrier.cuh"
#include "out_of_bounds.cuh"
#include "out_of_shared.cuh"
#include "out_of_tile.cuh"
#include "two_barriers.cuh"

int main(int, char** arguments) {
  const std::map<std::string, void (*)(int)> faults = {
      {"misaligned", misaligned},   {"missed_barrier", missed_barrier}, {"missing_lane", missing_lane},
      {"no_barrier", no_barrier},   {"out_of_bounds", out_of_bounds},   {"out_of_shared", out_of_shared},
      {"out_of_tile", out_of_tile}, {"two_barriers", two_barriers},
  };
  try {
    faults.at(arguments[1])(std::atoi(arguments[2]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::puts("no fault");
}
