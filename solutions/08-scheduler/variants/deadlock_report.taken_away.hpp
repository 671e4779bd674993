// Whoever nobody joins is in no cycle. Taken away one after the other, they
// leave the cycles.

#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iomanip>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

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

inline bool joins(const Goroutine& one, std::uint64_t id) {
  return one.what == "join" && static_cast<std::uint64_t>(one.on) == id;
}

// Those who are left may be joined by one each, so they stand in circles.
inline std::vector<Goroutine> in_cycles(std::vector<Goroutine> all) {
  for (std::size_t before = all.size() + 1; before != all.size();) {
    before = all.size();
    std::erase_if(all, [copy = all](const Goroutine& one) {
      const auto joined = [&](const auto& by) { return joins(by, one.id); };
      const auto there = [&](const auto& other) {
        return joins(one, other.id);
      };
      return std::none_of(copy.begin(), copy.end(), joined) ||
             std::none_of(copy.begin(), copy.end(), there);
    });
  }
  return all;
}

inline std::string cycles(std::vector<Goroutine> all) {
  std::string text;
  all = in_cycles(std::move(all));
  while (!all.empty()) {
    text += "cycle: " + std::to_string(all.front().id);
    for (std::uint64_t id = all.front().id;;) {
      const auto found = std::find_if(all.begin(), all.end(),
                                      [&](auto& one) { return one.id == id; });
      if (found == all.end()) break;
      id = static_cast<std::uint64_t>(found->on);
      text += " joins " + std::to_string(id);
      all.erase(found);
    }
    text += '\n';
  }
  return text;
}

inline std::string line(const Goroutine& goroutine, TimePoint now) {
  std::ostringstream text;
  text << "goroutine " << goroutine.id << " [" << goroutine.what;
  if (goroutine.on != -1) text << ' ' << goroutine.on;
  const std::chrono::duration<double> passed = now - goroutine.since;
  text << ", " << std::fixed << std::setprecision(1) << passed.count()
       << " s], created at " << goroutine.origin << '\n';
  return text.str();
}

inline std::string deadlock_report(const Runtime& runtime, TimePoint now) {
  std::vector<Goroutine> all = runtime.goroutines;
  std::erase_if(all, [](const Goroutine& goroutine) {
    return goroutine.state == Goroutine::State::Ended;
  });
  const bool parked = std::all_of(all.begin(), all.end(), [](const auto& one) {
    return one.state == Goroutine::State::Parked;
  });
  if (all.empty() || !parked || runtime.runnable != 0) return "";
  if (runtime.waiters + runtime.timers + runtime.offloaded != 0) return "";
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  std::string text = "all goroutines are asleep - deadlock!\n";
  text += std::to_string(all.size());
  text += all.size() == 1 ? " goroutine:\n" : " goroutines:\n";
  for (const Goroutine& goroutine : all) text += line(goroutine, now);
  return text + cycles(all);
}
