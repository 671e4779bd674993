// What rt/time.hpp promises. The numbers are those of the list of behaviours
// that every runtime of this kind should have.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include "rt/go.hpp"
#include "rt/time.hpp"

namespace {

using namespace std::chrono_literals;

std::chrono::nanoseconds time_of(const auto& action) {
  const rt::TimePoint start = rt::Clock::now();
  action();
  return rt::Clock::now() - start;
}

}  // namespace

TEST_CASE("86: a sleep never ends early") {
  rt::run([] {
    for (const std::chrono::microseconds time :
         {1us, 10us, 100us, 500us, 999us, 1'000us, 1'500us, 10'000us,
          100'000us}) {
      CHECK(time_of([&] { rt::sleep(time); }) >= time);
    }
    std::vector<rt::Handle> all;
    for (int i = 1; i <= 100; ++i) {
      all.push_back(rt::go([i] {
        const auto time = i * 300us;
        CHECK(time_of([&] { rt::sleep(time); }) >= time);
      }));
    }
    for (const rt::Handle& one : all) one.join();
  });
}

TEST_CASE("87: less than a millisecond is not made one") {
  rt::run([] {
    // The shortest of many: a busy machine is late, but not every time.
    auto shortest = std::chrono::nanoseconds::max();
    for (int i = 0; i < 1'000 && shortest >= 900us; ++i) {
      shortest = std::min(shortest, time_of([] { rt::sleep(100us); }));
    }
    CHECK(shortest >= 100us);
    CHECK(shortest < 900us);
  });
}

TEST_CASE("88: sleepers wake in the order of their times, then of coming") {
  rt::run([] {
    std::string order;
    const rt::TimePoint start = rt::Clock::now() + 20ms;
    std::vector<rt::Handle> all;
    for (const int i : {5, 1, 4, 2, 3}) {
      all.push_back(rt::go([&order, start, i] {
        rt::sleep_until(start + i * 1ms);
        order += std::to_string(i);
      }));
    }
    for (const char name : {'a', 'b', 'c'}) {
      all.push_back(rt::go([&order, start, name] {
        rt::sleep_until(start + 9ms);
        order += name;
      }));
    }
    for (const rt::Handle& one : all) one.join();
    CHECK(order == "12345abc");
  });
}

TEST_CASE("89: ten waits of 100 ms in a row take a second, about") {
  rt::run([] {
    const auto time = time_of([] {
      for (int i = 0; i < 10; ++i) rt::sleep(100ms);
    });
    CHECK(time >= 1s);
    CHECK(time < 20s);  // against a hang: a busy machine may be late
  });
}

TEST_CASE("90: no time and less is a yield") {
  rt::run([] {
    std::string order;
    rt::go([&] { order += 'a'; });
    rt::sleep(0s);
    order += '1';
    rt::go([&] { order += 'b'; });
    rt::sleep(-1h);
    order += '2';
    rt::go([&] { order += 'c'; });
    rt::sleep(std::chrono::nanoseconds::min());
    order += '3';
    rt::go([&] { order += 'd'; });
    rt::sleep_until(rt::TimePoint::min());
    CHECK(order == "a1b2c3d");
  });
}

TEST_CASE("91: the longest time never comes, and overflows nothing") {
  CHECK(rt::after(std::chrono::hours::max()) == rt::never);
  CHECK(rt::after(std::chrono::nanoseconds::max()) == rt::never);
  using Limits = std::numeric_limits<double>;
  for (const double seconds : {Limits::infinity(), Limits::quiet_NaN()}) {
    CHECK(rt::after(std::chrono::duration<double>(seconds)) == rt::never);
  }
  rt::run([] {
    int woken = 0;
    rt::go([&] {
      rt::sleep(std::chrono::nanoseconds::max());
      ++woken;
    });
    rt::go([&] {
      rt::sleep(std::chrono::hours::max());
      ++woken;
    });
    rt::go([&] {
      rt::sleep(std::chrono::hours(24 * 365 * 100));
      ++woken;
    });
    rt::go([&] {
      rt::sleep_until(rt::never);
      ++woken;
    });
    rt::sleep(20ms);
    CHECK(woken == 0);
  });
}

TEST_CASE("97: sleeping alone is no deadlock") {
  rt::run([] {
    rt::go([] { rt::sleep(5ms); }).join();
    rt::sleep(5ms);
  });
}
