// Belief: who is set to the same time again is there already.
// Fails: a time comes twice
// Message: also by the one that was reported

#pragma once

#include <sys/timerfd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"

using Clock = std::chrono::steady_clock;

// What is to happen when, each known by a number. The queue has the order, and
// the times find an entry in it. Both change in `set` and `forget` only.
class Deadlines {
 public:
  // Readable when the nearest deadline has come.
  int fd() const { return timer_.get(); }

  // A new deadline, or a new time for an old one.
  void set(int id, Clock::time_point when) {
    const auto old = times_.find(id);
    if (old != times_.end() && old->second == when) return;
    forget(id);
    times_[id] = when;
    queue_.insert({when, id});
    if (nearest() != armed_) arm();
  }

  // Nothing happens if there is no such deadline.
  void cancel(int id) {
    forget(id);
    if (nearest() != armed_) arm();
  }

  // Those that are due, each once, the nearest first. They are forgotten.
  std::vector<int> expired() {
    const auto now = Clock::now();
    std::vector<int> due;
    while (!queue_.empty() && queue_.begin()->first <= now) {
      due.push_back(queue_.begin()->second);
      queue_.erase(queue_.begin());
    }
    // Also if it is the same time again: a timer that has fired is disarmed.
    arm();
    return due;
  }

 private:
  static constexpr Clock::time_point never = Clock::time_point::max();

  void forget(int id) {
    const auto found = times_.find(id);
    if (found == times_.end()) return;
    queue_.erase({found->second, id});
    times_.erase(found);
  }

  Clock::time_point nearest() const {
    return queue_.empty() ? never : queue_.begin()->first;
  }

  // It fires at once if the time has passed. Whatever the timer had to report
  // before is forgotten by this call, so nobody has to read it.
  void arm() {
    armed_ = nearest();
    itimerspec time{};
    if (armed_ != never) {
      // A zero would disarm it, and nothing below zero is a time.
      const auto since_zero = std::max<Clock::duration>(
          armed_.time_since_epoch(), std::chrono::nanoseconds(1));
      const auto whole = floor<std::chrono::seconds>(since_zero);
      time.it_value = {whole.count(), (since_zero - whole).count()};
    }
    net::check(
        ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &time, nullptr),
        "timerfd_settime");
  }

  // steady_clock is CLOCK_MONOTONIC: the kernel gets the times as they are.
  net::Fd timer_{
      net::check(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
                 "timerfd_create")};
  std::map<int, Clock::time_point> times_;             // by number
  std::set<std::pair<Clock::time_point, int>> queue_;  // the nearest first
  Clock::time_point armed_ = never;                    // as last told
};
