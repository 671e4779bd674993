// Events are numbered. A call remembers the number at its beginning; if there
// is a higher one at its end, something was reported meanwhile.

#pragma once

#include <cstdint>
#include <string>
#include <utility>

struct Goroutine {
  std::string name;
};

enum class Answer {
  Park,     // it waits here from now on
  GoOn,     // no: the next call is worth a try
  Closed,   // no: the descriptor is closed
  Refused,  // no: somebody else waits here
};

// One direction of a descriptor, watched edge-triggered.
class Slot {
 public:
  bool begin_call() {
    seen_ = events_;
    return !closed_;
  }

  Answer wait(Goroutine& who) {
    if (closed_) return Answer::Closed;
    if (waiter_ != nullptr) return Answer::Refused;
    if (events_ != seen_) return Answer::GoOn;
    waiter_ = &who;
    return Answer::Park;
  }

  Goroutine* event() {
    ++events_;
    return std::exchange(waiter_, nullptr);
  }

  Goroutine* close() {
    closed_ = true;
    return std::exchange(waiter_, nullptr);
  }

 private:
  std::uint64_t events_ = 0;
  std::uint64_t seen_ = 0;  // when the last call began
  Goroutine* waiter_ = nullptr;
  bool closed_ = false;
};
