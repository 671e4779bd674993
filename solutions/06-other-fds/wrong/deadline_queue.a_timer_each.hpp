// Belief: each deadline needs a timer of its own.
// Fails: many deadlines are set
// Message: one descriptor serves them all

#pragma once

#include <sys/epoll.h>
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

// What is to happen when, each known by a number, and each with a timer. An
// epoll list is a descriptor too: it is readable when one of the timers is.
class Deadlines {
 public:
  // Readable when the nearest deadline has come.
  int fd() const { return epoll_.get(); }

  // A new deadline, or a new time for an old one.
  void set(int id, Clock::time_point when) {
    net::Fd timer(net::check(
        ::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
        "timerfd_create"));
    // A zero would disarm it, and nothing below zero is a time.
    const auto since_zero = std::max<Clock::duration>(
        when.time_since_epoch(), std::chrono::nanoseconds(1));
    const auto whole = floor<std::chrono::seconds>(since_zero);
    itimerspec time{};
    time.it_value = {whole.count(), (since_zero - whole).count()};
    net::check(
        ::timerfd_settime(timer.get(), TFD_TIMER_ABSTIME, &time, nullptr),
        "timerfd_settime");
    epoll_event event{EPOLLIN, {.fd = id}};
    net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer.get(), &event),
               "epoll_ctl");
    cancel(id);
    queue_.insert({when, id});
    timers_[id] = {when, std::move(timer)};
  }

  // Nothing happens if there is no such deadline.
  void cancel(int id) {
    const auto found = timers_.find(id);
    if (found == timers_.end()) return;
    queue_.erase({found->second.first, id});
    timers_.erase(found);
  }

  // Those that are due, each once, the nearest first. They are forgotten.
  std::vector<int> expired() {
    const auto now = Clock::now();
    std::vector<int> due;
    while (!queue_.empty() && queue_.begin()->first <= now) {
      due.push_back(queue_.begin()->second);
      cancel(due.back());
    }
    return due;
  }

 private:
  net::Fd epoll_{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::map<int, std::pair<Clock::time_point, net::Fd>> timers_;  // by number
  std::set<std::pair<Clock::time_point, int>> queue_;  // the nearest first
};
