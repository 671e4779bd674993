#pragma once

#include <chrono>

namespace rt {

// Time that only goes forward: setting the clock on the wall changes nothing.
using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

// The time after which there is none.
inline constexpr TimePoint never = TimePoint::max();

// Parks until the time has come, never less. Who sleeps until the same time is
// woken in the order in which they began. A time that has passed is a yield.
// Throws std::logic_error outside of run.
void sleep_until(TimePoint time);

// So far in the future; `never` if that cannot be expressed.
template <typename Count, typename Period>
TimePoint after(std::chrono::duration<Count, Period> duration) {
  using Wide = std::chrono::duration<long double, Clock::period>;
  const TimePoint now = Clock::now();
  if (!(Wide(duration) < Wide(never - now))) return never;  // nor is a NaN
  if (duration <= duration.zero()) return now;
  return now + std::chrono::ceil<Clock::duration>(duration);
}

template <typename Count, typename Period>
void sleep(std::chrono::duration<Count, Period> duration) {
  sleep_until(after(duration));
}

}  // namespace rt
