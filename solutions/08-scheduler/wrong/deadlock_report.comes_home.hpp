// Belief: who walks along the joins comes to somebody idle or comes home.
// Fails: some wait for those who wait for each other
// Message: who only waits for a cycle is not in it

#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
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

// Those who have not ended, by id.
using Sleepers = std::map<std::uint64_t, const Goroutine*>;

inline bool can_go_on(const Runtime& runtime) {
  const auto runs = [](const Goroutine& goroutine) {
    return goroutine.state == Goroutine::State::Running;
  };
  return runtime.runnable > 0 || runtime.waiters > 0 || runtime.timers > 0 ||
         runtime.offloaded > 0 ||
         std::any_of(runtime.goroutines.begin(), runtime.goroutines.end(),
                     runs);
}

inline std::string line(const Goroutine& goroutine, TimePoint now) {
  const std::chrono::duration<double> passed = now - goroutine.since;
  std::array<char, 32> time;
  std::snprintf(time.data(), time.size(), "%.1f", passed.count());
  std::string on;
  if (goroutine.on >= 0) on = ' ' + std::to_string(goroutine.on);
  return "goroutine " + std::to_string(goroutine.id) + " [" + goroutine.what +
         on + ", " + time.data() + " s], created at " + goroutine.origin + '\n';
}

// The cycle of which this one has the smallest id; nothing if there is none.
inline std::string cycle(const Sleepers& sleepers, std::uint64_t first) {
  std::string text = "cycle: " + std::to_string(first);
  std::uint64_t id = first;
  for (;;) {
    const auto found = sleepers.find(id);
    if (found == sleepers.end() || found->second->what != "join") return {};
    id = static_cast<std::uint64_t>(found->second->on);
    text += " joins " + std::to_string(id);
    if (id == first) return text + '\n';
    if (id < first) return {};
  }
}

inline std::string deadlock_report(const Runtime& runtime, TimePoint now) {
  if (can_go_on(runtime)) return {};
  Sleepers sleepers;
  for (const Goroutine& goroutine : runtime.goroutines) {
    if (goroutine.state == Goroutine::State::Ended) continue;
    sleepers[goroutine.id] = &goroutine;
  }
  if (sleepers.empty()) return {};
  std::string text =
      "all goroutines are asleep - deadlock!\n" +
      std::to_string(sleepers.size()) +
      (sleepers.size() == 1 ? " goroutine:\n" : " goroutines:\n");
  for (const auto& [id, goroutine] : sleepers) text += line(*goroutine, now);
  for (const auto& [id, goroutine] : sleepers) text += cycle(sleepers, id);
  return text;
}
