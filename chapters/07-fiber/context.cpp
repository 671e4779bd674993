#include "chapters/07-fiber/context.hpp"

#include <cxxabi.h>

#include <cerrno>
#include <cstdlib>
#include <new>

#include "chapters/07-fiber/switch.hpp"

namespace rt {
namespace {

// Loading the control words is dear, and almost always they are the same.
#if defined(__x86_64__)
void get(FloatingPoint& now) {
  asm volatile("stmxcsr %0" : "=m"(now.mxcsr));
  asm volatile("fnstcw %0" : "=m"(now.x87));
}

void change(const FloatingPoint& now, const FloatingPoint& wanted) {
  // The low six bits of MXCSR say what has happened, not what to do.
  if (((now.mxcsr ^ wanted.mxcsr) >> 6) != 0) {
    asm volatile("ldmxcsr %0" : : "m"(wanted.mxcsr));
  }
  if (now.x87 != wanted.x87) asm volatile("fldcw %0" : : "m"(wanted.x87));
}
#elif defined(__aarch64__)
void get(FloatingPoint& now) { asm volatile("mrs %0, fpcr" : "=r"(now.fpcr)); }

void change(const FloatingPoint& now, const FloatingPoint& wanted) {
  if (now.fpcr != wanted.fpcr) {
    asm volatile("msr fpcr, %0" : : "r"(wanted.fpcr));
  }
}
#endif

// Where the thread keeps them. Asked for once: the two calls would cost more
// than all the rest of a switch.
struct ThreadState {
  Exceptions* exceptions = nullptr;
  int* error_number = nullptr;
};

ThreadState& thread_state() {
  constinit thread_local ThreadState state;
  if (state.exceptions == nullptr) {
    state.exceptions = reinterpret_cast<Exceptions*>(abi::__cxa_get_globals());
    state.error_number = &errno;
  }
  return state;
}

// The one place for what the thread has only one of.
inline void swap_thread_state(Context& from, const Context& to) {
  get(from.floating_point);
  change(from.floating_point, to.floating_point);
  const ThreadState& thread = thread_state();
  from.exceptions = *thread.exceptions;
  *thread.exceptions = to.exceptions;
  from.error_number = *thread.error_number;
  *thread.error_number = to.error_number;
}

}  // namespace

void* forge_frame(std::byte* top, void (*function)(void*), void* argument) {
  auto* frame = new (top - sizeof(SavedFrame)) SavedFrame{};
  frame->return_address = first_frame;
#if defined(__x86_64__)
  frame->r12 = function;
  frame->r13 = argument;
#elif defined(__aarch64__)
  frame->x19 = function;
  frame->x20 = argument;
#endif
  return frame;
}

Context::Context() : sanitized(sanitized_thread_stack()) {}

Context::Context(const Stack& stack, std::byte* top, void (*function)(void*),
                 void* argument)
    : stack_pointer(forge_frame(top, function, argument)),
      sanitized(sanitized_stack(stack.low, stack.size, stack.tsan_fiber)) {
  get(floating_point);
}

void switch_to(Context& from, Context& to) {
  swap_thread_state(from, to);
  before_switch(from.sanitized, to.sanitized, false);
  switch_stacks(&from.stack_pointer, to.stack_pointer);
  after_switch(from.sanitized);
}

void leave(Context& from, Context& to) {
  swap_thread_state(from, to);
  before_switch(from.sanitized, to.sanitized, true);
  switch_stacks(&from.stack_pointer, to.stack_pointer);
  std::abort();
}

}  // namespace rt
