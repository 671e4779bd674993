#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>

#include "common/testing/process.hpp"

namespace testing {

// As many clients as wanted, or as this process may have descriptors; fewer
// are told aloud. For tests: it needs doctest.
inline std::size_t shrink(std::size_t wanted) {
  const std::size_t most = raise_descriptor_limit() - 50;
  if (wanted > most) MESSAGE("only " << most << " clients, not " << wanted);
  return std::min(wanted, most);
}

}  // namespace testing
