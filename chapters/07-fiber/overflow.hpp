#pragma once

#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "chapters/07-fiber/stack.hpp"

namespace rt {

// As long as it lives, a stack that is used up is reported on standard error
// before SIGSEGV ends the process: "fiber 7: stack overflow at 0x7f...: all of
// its 262144 bytes are used". Any other SIGSEGV is left to whoever had it. Of
// the calling thread: signal handlers have a stack of their own from now on
// (sigaltstack(2)), as they could not run on one that is used up.
class OverflowReport {
 public:
  struct Running {
    const char* kind;  // "fiber"
    std::uint64_t id;
    const Stack* stack;  // null: the stack that the thread came with
  };

  // who: tells what the thread that calls it is running; a signal handler does.
  // While one report lives, others take its `who`. Throws std::system_error.
  explicit OverflowReport(Running (*who)());
  OverflowReport(const OverflowReport&) = delete;
  OverflowReport& operator=(const OverflowReport&) = delete;
  ~OverflowReport();

 private:
  std::vector<std::byte> memory_;
  stack_t old_stack_{};
};

}  // namespace rt
