// Repair: the slot in which a goroutine waits for its descriptor.
//
// Nothing is missing here and it compiles. It works as long as everything comes
// in this order: a call, a wait, an event.

#pragma once

#include <string>

struct Goroutine {
  std::string name;
};

enum class Answer {
  Park,     // it waits here from now on
  GoOn,     // no: the next call is worth a try
  Closed,   // no: the descriptor is closed
  Refused,  // no: somebody else waits here
};

// One direction of a descriptor, watched edge-triggered. One thread runs
// goroutines and another one looks at the kernel. Nobody else comes in while
// one of these functions runs; between two of them anybody may.
class Slot {
 public:
  // A call begins. What was reported before tells nothing about what the call
  // will leave. False: closed, and no call is to be made.
  bool begin_call() { return !closed_; }

  // The call has said EAGAIN, and the goroutine wants to park until something
  // was reported. Whoever waits already is not disturbed.
  Answer wait(Goroutine& who) {
    if (state_ == State::Ready) return Answer::GoOn;
    state_ = State::Waiting;
    waiter_ = &who;
    return Answer::Park;
  }

  // The kernel has reported that a call is worth a try. Who is to be woken for
  // it, or null. Nobody is woken twice for one wait.
  Goroutine* event() {
    if (waiter_ == nullptr) return nullptr;
    state_ = State::Ready;
    return waiter_;
  }

  // Who is to be woken for it, or null. Nothing can be had here any more.
  Goroutine* close() {
    closed_ = true;
    waiter_ = nullptr;
    return nullptr;
  }

 private:
  enum class State { Empty, Ready, Waiting };
  State state_ = State::Empty;
  Goroutine* waiter_ = nullptr;  // only while Waiting
  bool closed_ = false;
};
