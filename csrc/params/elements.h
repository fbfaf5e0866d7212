// The element types of signals.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace neurocuda {

enum class Element : std::uint8_t { kFloat32, kFloat16, kBFloat16, kUInt8, kBool };

NEUROCUDA_HOST_DEVICE constexpr std::int64_t size_of(Element type) {
  return type == Element::kFloat32 ? 4 : type == Element::kFloat16 || type == Element::kBFloat16 ? 2 : 1;
}

}  // namespace neurocuda
