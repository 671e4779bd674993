// Write: find out that everybody waits for ever, and say who waits for what.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/testing/todo.hpp"

using TimePoint = std::chrono::steady_clock::time_point;

struct Goroutine {
  enum class State { Runnable, Running, Parked, Ended };
  std::uint64_t id = 0;
  State state = State::Parked;
  // Of one that is parked; what the others have here is left from before.
  std::string what{};    // "join", "send", "receive"
  std::int64_t on = -1;  // a number; to join: whose id; -1: there is none
  TimePoint since{};     // when it parked
  std::string origin{};  // where it was created: "main.cpp:10"
};

// What a scheduler knows when it looks for somebody to run.
struct Runtime {
  std::vector<Goroutine> goroutines{};  // in no order
  std::size_t runnable = 0;             // stand in the run queue
  std::size_t waiters = 0;    // are parked until a descriptor is ready
  std::size_t timers = 0;     // are pending
  std::size_t offloaded = 0;  // calls run on threads of their own
};

// Empty while anything can still happen by itself: while somebody can run, or
// runs, or one of the other three numbers is not zero. Empty, too, when all
// have ended. Otherwise a report, here of four goroutines:
//
//   all goroutines are asleep - deadlock!
//   4 goroutines:
//   goroutine 1 [join 2, 12.0 s], created at main.cpp:10
//   goroutine 2 [join 7, 0.5 s], created at main.cpp:12
//   goroutine 5 [receive, 0.5 s], created at main.cpp:15
//   goroutine 7 [join 2, 0.3 s], created at main.cpp:18
//   cycle: 2 joins 7 joins 2
//
// - Who has not ended is listed, by id. The number is that of the lines below
//   it; of one it says "1 goroutine:".
// - How long it has waited is rounded to tenths of a second.
// - Those who join each other in a circle have a line for each circle, which
//   begins and ends with the smallest id; several are sorted by it. Nobody else
//   is in it.
inline std::string deadlock_report(const Runtime& runtime, TimePoint now) {
  TODO("is it one? Then the list, and then the cycles");
}
