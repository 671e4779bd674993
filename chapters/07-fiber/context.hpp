#pragma once

#include <cstddef>
#include <cstdint>

#include "chapters/07-fiber/sanitizers.hpp"
#include "chapters/07-fiber/stack.hpp"

namespace rt {

// How this thread computes with floating point: rounding, which exceptions
// trap, denormals. The ABI wants it left alone by a callee, so by a switch.
struct FloatingPoint {
#if defined(__x86_64__)
  std::uint32_t mxcsr = 0;
  std::uint16_t x87 = 0;
#elif defined(__aarch64__)
  std::uint64_t fpcr = 0;
#endif
};

// What the C++ runtime keeps for each thread about exceptions in flight
// (__cxa_eh_globals of the Itanium C++ ABI, section 2.2.2).
struct Exceptions {
  void* caught = nullptr;     // those that a catch block is busy with
  unsigned int uncaught = 0;  // those that are looking for one
};

// A place where execution has stopped and can go on: where its stack ends now,
// and what is not on the stack because there is one for the whole thread.
struct Context {
  // Of the code that runs now, on the stack that the thread came with. Filled
  // when somebody switches away from it.
  Context();

  // Of a stack that has not run yet: the first switch to it calls
  // function(argument), which must call arrive first and must not return. Its
  // frames begin below `top`, which is stack.top() or lower and aligned to 16
  // bytes. Inherits the floating point of whoever makes it.
  Context(const Stack& stack, std::byte* top, void (*function)(void*),
          void* argument);

  void* stack_pointer = nullptr;
  FloatingPoint floating_point;
  int error_number = 0;  // errno
  Exceptions exceptions;
  [[no_unique_address]] SanitizedStack sanitized;
};

// Stops the code that runs, which is `from` from now on, and goes on with
// `to`. Returns when somebody switches to `from`. No system call is made.
void switch_to(Context& from, Context& to);

// The same for the last time: nobody will switch to `from` again.
[[noreturn]] void leave(Context& from, Context& to);

// The first thing to do on a new stack.
inline void arrive(const Context& self) { after_switch(self.sanitized); }

}  // namespace rt
