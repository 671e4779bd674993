// Looks at all of them. With a few deadlines nobody will see the difference.

#pragma once

#include <sys/timerfd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"

using Clock = std::chrono::steady_clock;

// What is to happen when, each known by a number.
class Deadlines {
 public:
  // Readable when the nearest deadline has come.
  int fd() const { return timer_.get(); }

  // A new deadline, or a new time for an old one.
  void set(int id, Clock::time_point when) {
    const bool was_nearest = forget(id);
    times_[id] = when;
    if (was_nearest || when < armed_) settle();
  }

  // Nothing happens if there is no such deadline.
  void cancel(int id) {
    if (forget(id)) settle();
  }

  // Those that are due, each once, the nearest first. They are forgotten.
  std::vector<int> expired() {
    const auto now = Clock::now();
    std::vector<int> due;
    for (const auto& [id, when] : times_) {
      if (when <= now) due.push_back(id);
    }
    std::stable_sort(due.begin(), due.end(), [this](int left, int right) {
      return times_.at(left) < times_.at(right);
    });
    for (const int id : due) times_.erase(id);
    // Also if it is the same time again: a timer that has fired is disarmed.
    arm();
    return due;
  }

 private:
  static constexpr Clock::time_point never = Clock::time_point::max();

  // True if the timer may be armed for it.
  bool forget(int id) {
    const auto found = times_.find(id);
    if (found == times_.end()) return false;
    const bool was_nearest = found->second == armed_;
    times_.erase(found);
    return was_nearest;
  }

  Clock::time_point nearest() const {
    auto least = never;
    for (const auto& [id, when] : times_) least = std::min(least, when);
    return least;
  }

  void settle() {
    if (nearest() != armed_) arm();
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
  std::map<int, Clock::time_point> times_;  // by number
  Clock::time_point armed_ = never;         // as last told
};
