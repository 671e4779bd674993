// Each goroutine is walked over once: a walk that meets its own steps has found
// a cycle, one that meets the steps of an earlier walk has found nothing.

#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
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

// The cycles, by their smallest ids.
class Cycles {
 public:
  explicit Cycles(const std::map<std::uint64_t, const Goroutine*>& all) {
    for (const auto& [id, goroutine] : all) {
      if (goroutine->what != "join") continue;
      joins_[id] = static_cast<std::uint64_t>(goroutine->on);
    }
    for (const auto& [id, joined] : joins_) walk(id);
  }

  std::string text() const {
    std::string all;
    for (const auto& [smallest, line] : lines_) all += line;
    return all;
  }

 private:
  void walk(std::uint64_t first) {
    std::uint64_t id = first;
    while (joins_.contains(id) && walks_.emplace(id, first).second) {
      id = joins_.at(id);
    }
    const auto met = walks_.find(id);
    if (met != walks_.end() && met->second == first) add(id);
  }

  // The cycle in which this one is.
  void add(std::uint64_t member) {
    std::uint64_t first = member;
    for (std::uint64_t id = joins_.at(member); id != member;
         id = joins_.at(id)) {
      first = std::min(first, id);
    }
    std::string text = "cycle: " + std::to_string(first);
    std::uint64_t id = first;
    do {
      id = joins_.at(id);
      text += " joins " + std::to_string(id);
    } while (id != first);
    lines_[first] = text + '\n';
  }

  std::map<std::uint64_t, std::uint64_t> joins_;
  std::map<std::uint64_t, std::uint64_t> walks_;  // on which each was met first
  std::map<std::uint64_t, std::string> lines_;
};

// In whole tenths, without floating point.
inline std::string seconds(std::chrono::nanoseconds passed) {
  using std::chrono::milliseconds;
  const auto tenths = (passed + milliseconds(50)) / milliseconds(100);
  return std::to_string(tenths / 10) + '.' + std::to_string(tenths % 10) + " s";
}

inline std::string deadlock_report(const Runtime& runtime, TimePoint now) {
  std::map<std::uint64_t, const Goroutine*> all;
  for (const Goroutine& goroutine : runtime.goroutines) {
    if (goroutine.state == Goroutine::State::Running) return {};
    if (goroutine.state == Goroutine::State::Runnable) return {};
    if (goroutine.state == Goroutine::State::Parked) {
      all[goroutine.id] = &goroutine;
    }
  }
  if (runtime.waiters || runtime.timers || runtime.offloaded) return {};
  if (all.empty()) return {};
  std::string text = "all goroutines are asleep - deadlock!\n" +
                     std::to_string(all.size()) + " goroutine" +
                     (all.size() > 1 ? "s:\n" : ":\n");
  for (const auto& [id, one] : all) {
    const std::string on = one->on < 0 ? "" : ' ' + std::to_string(one->on);
    text += "goroutine " + std::to_string(id) + " [" + one->what + on + ", " +
            seconds(now - one->since) + "], created at " + one->origin + '\n';
  }
  return text + Cycles(all).text();
}
