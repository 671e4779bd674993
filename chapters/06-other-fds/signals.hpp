#pragma once

#include <csignal>
#include <initializer_list>

#include "common/fd.hpp"

// Signals as something to read. They are blocked in the calling thread, so it
// has to come before any other thread is started: a new thread inherits the
// mask, and the kernel gives a signal to any thread that does not block it.
// None is taken that is ignored: whoever started us (nohup, say) wants it so.
class Signals {
 public:
  // Throws std::system_error.
  explicit Signals(std::initializer_list<int> numbers);

  // Readable while one of them is pending.
  int fd() const { return signalfd_.get(); }

  // The number of one that came, or 0 if there is none. Another of the same
  // number that comes before this one is taken, is the same one.
  int take();

  // The mask as it was: for a program that is executed, which inherits ours.
  const sigset_t& original() const { return original_; }

  void hold() const;     // they wait for take()
  void release() const;  // they have their usual effect

 private:
  sigset_t ours_;
  sigset_t original_;
  net::Fd signalfd_;
};
