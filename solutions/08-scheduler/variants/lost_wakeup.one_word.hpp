// One word: null is empty, a goroutine waits, and what stands for ready is the
// address of nobody. Go has it so, and changes the word atomically.

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
    if (word_ == &ready_) word_ = nullptr;
    return !closed_;
  }

  Answer wait(Goroutine& who) {
    if (closed_) return Answer::Closed;
    if (word_ == &ready_) {
      word_ = nullptr;
      return Answer::GoOn;
    }
    if (word_ != nullptr) return Answer::Refused;
    word_ = &who;
    return Answer::Park;
  }

  Goroutine* event() { return leave(&ready_); }

  Goroutine* close() {
    closed_ = true;
    return leave(nullptr);
  }

 private:
  Goroutine* leave(Goroutine* next) {
    Goroutine* before = std::exchange(word_, next);
    return before == &ready_ ? nullptr : before;
  }

  Goroutine ready_;
  Goroutine* word_ = nullptr;
  bool closed_ = false;
};
