#pragma once

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>

#include "common/error.hpp"
#include "common/fd.hpp"

using Clock = std::chrono::steady_clock;  // reads CLOCK_MONOTONIC

inline constexpr Clock::time_point never = Clock::time_point::max();

// One timerfd for all who wait for a time.
class Timer {
 public:
  Timer()
      : fd_(net::check(
            ::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC),
            "timerfd_create")) {}

  // Readable once the time has come for which it is set.
  int fd() const { return fd_.get(); }

  // Sees to it that it fires at this time at the latest. If it is set for an
  // earlier one, which nobody waits for any more, that stays: it fires in vain,
  // and is set anew then. Dearer would be a call whenever a deadline moves.
  void set(Clock::time_point when) {
    if (when >= set_for_) return;
    // 0 would turn it off.
    const auto since = std::max(when.time_since_epoch(), Clock::duration(1));
    const auto seconds = floor<std::chrono::seconds>(since);
    const itimerspec setting{{}, {seconds.count(), (since - seconds).count()}};
    net::check(
        ::timerfd_settime(fd_.get(), TFD_TIMER_ABSTIME, &setting, nullptr),
        "timerfd_settime");
    set_for_ = when;
  }

  // It has fired: reads it, or it would be reported again and again.
  void take() {
    std::uint64_t expirations = 0;
    if (::read(fd_.get(), &expirations, sizeof expirations) < 0 &&
        errno != EAGAIN) {
      net::throw_errno("read", "timerfd");
    }
    set_for_ = never;
  }

 private:
  net::Fd fd_;
  Clock::time_point set_for_ = never;
};
