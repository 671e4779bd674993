#pragma once

#include <cstdint>
#include <exception>
#include <functional>

#include "chapters/07-fiber/context.hpp"
#include "chapters/07-fiber/stack.hpp"

namespace rt {

// A function that can stop and go on, with a stack of its own. It runs only
// inside resume, on the thread that calls it: a fiber is no thread, and two of
// them never run at once. Fibers may make and resume fibers.
class Fiber {
 public:
  // Takes a stack from the pool; the body has not begun yet. Throws what
  // StackPool::take throws, and std::invalid_argument for an empty function.
  Fiber(StackPool& pool, std::function<void()> body);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The body must have ended or never begun: what stands on its stack could
  // not be destroyed. Else the process ends, with the fiber's id.
  ~Fiber();

  // Runs the fiber until it suspends or its body ends; an exception that
  // leaves the body leaves here. Throws std::logic_error if the fiber has
  // ended or is running.
  void resume();

  // Stops the fiber that runs and goes on with whoever has resumed it. Throws
  // std::logic_error if no fiber runs.
  static void suspend();

  bool done() const { return state_ == State::Done; }

  // 1, 2, 3 in the order in which this thread has made them.
  std::uint64_t id() const { return id_; }

  const Stack& stack() const { return stack_; }

  // The fiber that runs, or null.
  static const Fiber* running();

 private:
  enum class State { New, Suspended, Running, Done };

  static void begin(void* fiber);
  Context& resumer_context() const;

  StackPool& pool_;
  Stack& stack_;
  std::function<void()> body_;
  Context context_;             // while it does not run
  Fiber* resumer_ = nullptr;    // while it runs; null is the thread's own stack
  std::exception_ptr failure_;  // has left the body
  std::uint64_t id_;
  State state_ = State::New;
};

}  // namespace rt
