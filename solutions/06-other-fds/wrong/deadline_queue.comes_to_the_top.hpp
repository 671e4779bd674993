// Belief: what is stale is dropped when it comes to the top.
// Fails: a server runs for a long time
// Message: what was moved leaves nothing

#pragma once

#include <sys/timerfd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <queue>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"

using Clock = std::chrono::steady_clock;

// What is to happen when, each known by a number. An entry of the queue counts
// if its time is the one that is noted for its number.
class Deadlines {
 public:
  // Readable when the nearest deadline has come.
  int fd() const { return timer_.get(); }

  // A new deadline, or a new time for an old one.
  void set(int id, Clock::time_point when) {
    const auto found = times_.find(id);
    if (found != times_.end() && found->second == when) return;
    times_[id] = when;
    queue_.push({when, id});
    settle();
  }

  // Nothing happens if there is no such deadline.
  void cancel(int id) {
    times_.erase(id);
    settle();
  }

  // Those that are due, each once, the nearest first. They are forgotten.
  std::vector<int> expired() {
    const auto now = Clock::now();
    std::vector<int> due;
    for (drop_stale(); !queue_.empty() && queue_.top().first <= now;
         drop_stale()) {
      due.push_back(queue_.top().second);
      times_.erase(due.back());
    }
    // Also if it is the same time again: a timer that has fired is disarmed.
    arm();
    return due;
  }

 private:
  using Entry = std::pair<Clock::time_point, int>;
  static constexpr Clock::time_point never = Clock::time_point::max();

  bool is_stale(const Entry& entry) const {
    const auto found = times_.find(entry.second);
    return found == times_.end() || found->second != entry.first;
  }

  // Those further down are dropped when they come to the top.
  void drop_stale() {
    while (!queue_.empty() && is_stale(queue_.top())) queue_.pop();
  }

  void settle() {
    drop_stale();
    if (nearest() != armed_) arm();
  }

  Clock::time_point nearest() const {
    return queue_.empty() ? never : queue_.top().first;
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
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue_;
  Clock::time_point armed_ = never;  // as last told
};
