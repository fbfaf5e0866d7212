// Rows of elements as float32 and back.
#pragma once

#include <cstdint>

#include "params/elements.h"

namespace neurocuda::cpu {

// to[k] = from[k], or onto[k] + from[k], as float32; `onto` may be `to`.
void read_elements(Element type, const void* from, std::int64_t count, float* to,
                   const float* onto = nullptr);

// to[k] = from[k], rounded to nearest even; uint8 holds counts, at most 255; bool whether there is a spike.
void write_elements(Element type, const float* from, std::int64_t count, void* to);

// One bit for each of `count` spikes, the first in the lowest bit of the first byte, zeros after the last.
void write_bits(const float* from, std::int64_t count, std::uint8_t* to);

// The reverse: to[k] is 1 where bit `first + k` is set, 0 elsewhere.
void read_bits(const std::uint8_t* from, std::int64_t first, std::int64_t count, float* to);

}  // namespace neurocuda::cpu
