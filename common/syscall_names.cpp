#include "common/syscall_names.hpp"

#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <utility>

namespace net {
namespace {

// Generated at configure time (common/cmake/syscall_names.cmake).
constexpr auto names = std::to_array<std::pair<long, const char*>>({
#include "syscall_names.inc"
});

}  // namespace

std::string syscall_name(long number) {
  const auto found =
      std::find_if(names.begin(), names.end(),
                   [number](const auto& call) { return call.first == number; });
  return found != names.end() ? found->second
                              : "syscall " + std::to_string(number);
}

}  // namespace net
