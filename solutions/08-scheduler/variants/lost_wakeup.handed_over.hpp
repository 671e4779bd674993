// An event belongs to the one whom it wakes. It is noted only if nobody waits.

#pragma once

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
    ready_ = false;
    return !closed_;
  }

  Answer wait(Goroutine& who) {
    if (closed_) return Answer::Closed;
    if (ready_) return Answer::GoOn;
    if (waiter_ != nullptr) return Answer::Refused;
    waiter_ = &who;
    return Answer::Park;
  }

  Goroutine* event() {
    ready_ = waiter_ == nullptr;
    return std::exchange(waiter_, nullptr);
  }

  Goroutine* close() {
    closed_ = true;
    return std::exchange(waiter_, nullptr);
  }

 private:
  bool ready_ = false;
  Goroutine* waiter_ = nullptr;
  bool closed_ = false;
};
