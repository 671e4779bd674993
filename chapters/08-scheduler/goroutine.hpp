#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "chapters/07-fiber/context.hpp"
#include "chapters/07-fiber/stack.hpp"
#include "rt/go.hpp"
#include "rt/time.hpp"

namespace rt {

struct Goroutine;

// First in, first out. A goroutine stands in one queue at most, so one link in
// it is enough, and nothing is allocated.
class Queue {
 public:
  bool empty() const { return first_ == nullptr; }
  std::size_t size() const { return size_; }
  void push(Goroutine& goroutine);
  Goroutine& pop();  // of a queue that is not empty

 private:
  Goroutine* first_ = nullptr;
  Goroutine* last_ = nullptr;
  std::size_t size_ = 0;
};

// What every switch needs comes first, in one line of the processor's cache.
struct alignas(64) Goroutine {
  // States are places: a goroutine is in exactly one.
  enum class State : std::uint8_t {
    Runnable,  // in the queue of those who can run
    Running,   // there is one
    Parked,    // where `wait` says: in a slot, a queue, or among the timers
    Ended,     // among those whose record may be used again
  };

  // What a parked one waits for.
  struct Wait {
    const char* what = "";  // "read", "sleep", "join"
    std::int64_t on = -1;   // the descriptor or the goroutine
    TimePoint since{};      // as of the last look at the clock
  };

  Context context;  // while it does not run
  Goroutine* next = nullptr;
  State state = State::Ended;
  bool in_netpoll = false;  // parked in a slot, and counted
  bool timed_out = false;   // woken by its timer and not by what it waited for
  int calls = 0;            // I/O calls since it was parked
  void* body = nullptr;     // at the top of the stack
  std::uint64_t id = 0;
  std::size_t index = 0;  // of its record
  Wait wait;

  Stack* stack = nullptr;
  void (*run_body)(void* body) = nullptr;
  Origin origin;
  Queue joiners;
};

inline void Queue::push(Goroutine& goroutine) {
  goroutine.next = nullptr;
  (first_ == nullptr ? first_ : last_->next) = &goroutine;
  last_ = &goroutine;
  ++size_;
}

inline Goroutine& Queue::pop() {
  --size_;
  return *std::exchange(first_, first_->next);
}

}  // namespace rt
