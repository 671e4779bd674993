// Belief: each event is good for one call.
// Fails: events are older than the call
// Message: a call uses up what was reported before it

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
  // A call begins. What was reported before tells nothing about what the call
  // will leave. False: closed, and no call is to be made.
  bool begin_call() {
    if (events_ > 0 && --events_ == 0) state_ = State::Empty;
    return !closed_;
  }

  // The call has said EAGAIN, and the goroutine wants to park until something
  // was reported.
  Answer wait(Goroutine& who) {
    if (closed_) return Answer::Closed;
    if (state_ == State::Ready) return Answer::GoOn;
    if (state_ == State::Waiting) return Answer::Refused;
    state_ = State::Waiting;
    waiter_ = &who;
    return Answer::Park;
  }

  // The kernel has reported that a call is worth a try. Who is to be woken for
  // it, or null.
  Goroutine* event() {
    ++events_;
    state_ = State::Ready;
    return std::exchange(waiter_, nullptr);
  }

  // Who is to be woken for it, or null.
  Goroutine* close() {
    closed_ = true;
    state_ = State::Empty;
    return std::exchange(waiter_, nullptr);
  }

 private:
  enum class State {
    Empty,    // nothing was reported since the last call began
    Ready,    // something was, and nobody has used it
    Waiting,  // `waiter_` is parked until something is
  };
  State state_ = State::Empty;
  Goroutine* waiter_ = nullptr;  // only while Waiting
  int events_ = 0;
  bool closed_ = false;
};
