#pragma once

#include <signal.h>

#include <atomic>
#include <cstdint>
#include <cstdio>

#include "chapters/08-scheduler/goroutine.hpp"
#include "chapters/08-scheduler/netpoll.hpp"
#include "chapters/08-scheduler/shared_action.hpp"

namespace rt {

class Scheduler;

// What a scheduler says of itself when it is asked: by SIGQUIT the list of
// goroutines, with RT_TRACE=1 a line a second.
class Report {
 public:
  explicit Report(const Netpoll& netpoll);
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;
  ~Report();

  // When it wants to be called, at the latest.
  TimePoint next() const { return next_trace_; }

  // SIGQUIT has asked for the list: say is to be called as soon as may be.
  static bool list_wanted() {
    return list_wanted_.load(std::memory_order_relaxed);
  }

  // Says on standard error what has been asked for since the last call.
  void say(const Scheduler& scheduler, TimePoint now);

 private:
  static struct sigaction sigquit_action();
  static void on_sigquit(int);
  void trace(const Scheduler& scheduler, TimePoint now);

  static inline std::atomic<bool> list_wanted_ = false;
  const Netpoll& netpoll_;
  const SharedAction<SIGQUIT> answer_;
  TimePoint start_;
  TimePoint next_trace_ = never;
};

// "goroutine 4 [read 7, 1.2 s], created at server.cpp:41"
void print(std::FILE* file, const Goroutine& goroutine, TimePoint now);

// An exception has left a goroutine. Ends the process with status 2.
[[noreturn]] void die_of_exception(const Goroutine& goroutine,
                                   const char* what);

// Nobody can ever run again. Ends the process with status 2.
[[noreturn]] void die_of_deadlock(const Scheduler& scheduler);

}  // namespace rt
