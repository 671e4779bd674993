// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <deadlock_report.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace {

using State = Goroutine::State;
using std::chrono::milliseconds;

const TimePoint now{std::chrono::hours(5)};

const std::string first_line = "all goroutines are asleep - deadlock!\n";

// Parked for half a second.
Goroutine parked(std::uint64_t id, const std::string& what,
                 std::int64_t on = -1) {
  return {id, State::Parked, what, on, now - milliseconds(500), "main.cpp:12"};
}

// Its line in the report.
std::string line_of(std::uint64_t id, const std::string& wait) {
  return "goroutine " + std::to_string(id) + " [" + wait +
         ", 0.5 s], created at main.cpp:12\n";
}

// A walk that goes in circles and notes each step would take all memory before
// the deadline. So it gets no more than a report of anything here needs.
constexpr std::size_t enough = 16 << 20;  // bytes
std::size_t memory_left = static_cast<std::size_t>(-1);

struct TooMuch : std::bad_alloc {
  const char* what() const noexcept override {
    return "more than 16 MiB for one report: does a walk come to an end?";
  }
};

std::string bounded_report(const Runtime& runtime) {
  memory_left = enough;
  try {
    std::string text = deadlock_report(runtime, now);
    memory_left = static_cast<std::size_t>(-1);
    return text;
  } catch (const TooMuch& error) {
    memory_left = static_cast<std::size_t>(-1);
    return error.what();
  } catch (...) {
    memory_left = static_cast<std::size_t>(-1);
    throw;
  }
}

// The report of so many that are parked and of nothing else.
std::string report_of(std::vector<Goroutine> goroutines) {
  return bounded_report(Runtime{.goroutines = std::move(goroutines)});
}

// What follows the list in a report.
std::string cycles_of(std::vector<Goroutine> goroutines) {
  const std::string text = report_of(std::move(goroutines));
  const std::string last = "created at main.cpp:12\n";
  const auto end = text.rfind(last);
  return end == std::string::npos ? text : text.substr(end + last.size());
}

// A program in which goroutine 1 is parked, changed in one way.
bool is_deadlock(const std::function<void(Runtime&)>& change) {
  Runtime runtime{.goroutines = {parked(1, "receive")}};
  change(runtime);
  return !bounded_report(runtime).empty();
}

// In which of these cases a deadlock is reported.
std::string taken_for_deadlocks() {
  std::string names;
  const auto look = [&](const std::string& name, auto change) {
    if (is_deadlock(change)) names += name + "; ";
  };
  look("a goroutine can run", [](Runtime& runtime) {
    runtime.goroutines.push_back({.id = 2, .state = State::Runnable});
    runtime.runnable = 1;
  });
  look("a goroutine runs", [](Runtime& runtime) {
    runtime.goroutines.push_back({.id = 2, .state = State::Running});
  });
  look("a descriptor is waited for", [](Runtime& runtime) {
    runtime.goroutines.push_back(parked(2, "read", 7));
    runtime.waiters = 1;
  });
  look("a timer is pending", [](Runtime& runtime) {
    runtime.goroutines.push_back(parked(2, "sleep"));
    runtime.timers = 1;
  });
  look("an offloaded call runs", [](Runtime& runtime) {
    runtime.goroutines.push_back(parked(2, "blocking"));
    runtime.offloaded = 1;
  });
  return names;
}

}  // namespace

// In place of the library's, for all of this program. Not to be inlined: GCC
// would see a new that ends in free, and warn.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (size > memory_left) throw TooMuch();
  memory_left -= size;
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}

[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

TEST_CASE("one goroutine waits for ever") {
  const Goroutine one{
      1, State::Parked, "receive", -1, now - milliseconds(1960), "main.cpp:10"};
  CHECK_MESSAGE(
      report_of({one}) ==
          first_line +
              "1 goroutine:\n"
              "goroutine 1 [receive, 2.0 s], created at main.cpp:10\n",
      "a report has this form");
}

TEST_CASE("several wait for ever") {
  CHECK_MESSAGE(report_of({parked(10, "send", 3), parked(1, "select"),
                           parked(9, "receive", 4)}) ==
                    first_line + "3 goroutines:\n" + line_of(1, "select") +
                        line_of(9, "receive 4") + line_of(10, "send 3"),
                "the list is sorted by id");
}

TEST_CASE("something can still happen") {
  CHECK_MESSAGE(taken_for_deadlocks() == "",
                "nothing is reported while somebody may go on");
}

TEST_CASE("all have ended") {
  CHECK_MESSAGE(report_of({{.id = 1, .state = State::Ended}}) == "",
                "a program that is over is no deadlock");
}

TEST_CASE("some have ended") {
  Goroutine ended = parked(3, "send", 8);
  ended.state = State::Ended;
  CHECK_MESSAGE(report_of({ended, parked(4, "receive")}) ==
                    first_line + "1 goroutine:\n" + line_of(4, "receive"),
                "who has ended is neither listed nor counted");
}

TEST_CASE("some wait for those who wait for each other") {
  CHECK_MESSAGE(cycles_of({parked(1, "join", 7), parked(7, "join", 3),
                           parked(3, "join", 7), parked(9, "join", 1)}) ==
                    "cycle: 3 joins 7 joins 3\n",
                "who only waits for a cycle is not in it");
}

TEST_CASE("a goroutine joins itself") {
  CHECK_MESSAGE(cycles_of({parked(1, "join", 2), parked(2, "join", 2)}) ==
                    "cycle: 2 joins 2\n",
                "one is enough for a cycle");
}

TEST_CASE("there are two cycles") {
  CHECK_MESSAGE(
      cycles_of({parked(6, "join", 1), parked(1, "join", 4),
                 parked(2, "join", 5), parked(4, "join", 6),
                 parked(5, "join", 2)}) ==
          "cycle: 1 joins 4 joins 6 joins 1\ncycle: 2 joins 5 joins 2\n",
      "each cycle is named, and once");
}

TEST_CASE("a number is no goroutine's") {
  CHECK_MESSAGE(cycles_of({parked(1, "join", 2), parked(2, "send", 1)}) == "",
                "only who joins waits for a goroutine");
}
