// What rt/go.hpp and rt/time.hpp promise. The numbers are those of the list of
// behaviours that every runtime of this kind should have.

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cfenv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "chapters/07-fiber/stack.hpp"
#include "common/testing/sanitizer.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

namespace {

using namespace std::chrono_literals;

// As many as wanted, or as can be: a sanitizer's fibers are dear, and without
// MADV_GUARD_INSTALL each stack takes two of the process's 65,530 mappings.
int many(int wanted) {
  const bool few_mappings = rt::best_guard() == rt::Guard::Protect;
  const int most = testing::sanitized ? 1'000 : few_mappings ? 30'000 : wanted;
  if (wanted <= most) return wanted;
  MESSAGE("only " << most << " goroutines instead of " << wanted);
  return most;
}

}  // namespace

TEST_CASE("run runs its body, and gives back what leaves it") {
  int n = 0;
  rt::run([&] { ++n; });
  rt::run([&] { ++n; });
  CHECK(n == 2);
  CHECK_THROWS_WITH(rt::run([] { throw std::runtime_error("boom"); }), "boom");
  rt::run([] {
    CHECK(rt::goroutine_count() == 1);
    CHECK_THROWS_AS(rt::run([] {}), std::logic_error);
  });
}

TEST_CASE("outside of run everything is refused") {
  CHECK_THROWS_AS(rt::go([] {}), std::logic_error);
  CHECK_THROWS_AS(rt::yield(), std::logic_error);
  CHECK_THROWS_AS(rt::sleep(1ms), std::logic_error);
  CHECK_THROWS_AS(rt::goroutine_count(), std::logic_error);
  CHECK_THROWS_AS(rt::dump(stderr), std::logic_error);
  CHECK_THROWS_AS(rt::pipe(), std::logic_error);
}

TEST_CASE("1: a body runs exactly once, and its arguments are taken at go") {
  rt::run([] {
    int runs = 0;
    std::string argument = "before";
    auto only = std::make_unique<int>(7);
    std::string seen;
    int number = 0;
    const rt::Handle a = rt::go(
        [&](const std::string& text) {
          ++runs;
          seen = text;
        },
        argument);
    argument = "after";
    const rt::Handle b = rt::go(
        [&](std::unique_ptr<int> mine) { number = *mine; }, std::move(only));
    const rt::Handle c = rt::go([&, copy = argument] { seen += copy; });
    CHECK(runs == 0);
    a.join();
    b.join();
    c.join();
    CHECK(runs == 1);
    CHECK(seen == "beforeafter");
    CHECK(number == 7);
  });
}

TEST_CASE("2: what a body has captured ends with it, in the goroutine") {
  rt::run([] {
    std::size_t counted = 0;
    const auto count = [&](const int* number) {
      counted = rt::goroutine_count();
      delete number;
    };
    std::unique_ptr<int, decltype(count)> kept(new int(7), count);
    rt::go([kept = std::move(kept)] {
      try {
        throw *kept;
      } catch (int number) {
        CHECK(number == 7);
      }
    }).join();
    CHECK(counted == 2);  // it still counted as one
    CHECK(rt::goroutine_count() == 1);
  });
}

TEST_CASE("3: 100,000 are started, all park, and all are joined") {
  const int n = many(100'000);
  int ended = 0;
  rt::run([&] {
    const rt::Handle gate = rt::go([] { rt::yield(); });
    std::vector<rt::Handle> all;
    for (int i = 0; i < n; ++i) {
      all.push_back(rt::go([&ended, gate] {
        gate.join();
        ++ended;
      }));
    }
    CHECK(rt::goroutine_count() == static_cast<std::size_t>(n) + 2);
    for (const rt::Handle& one : all) one.join();
    CHECK(rt::goroutine_count() == 1);
  });
  CHECK(ended == n);
}

namespace {

int chain(int n) {
  if (n == 0) return 0;
  int value = 0;
  rt::go([&value, n] { value = chain(n - 1) + 1; }).join();
  return value;
}

void nest(int n, int& deepest) {
  deepest = std::max(deepest, n);
  if (n > 0) rt::go([n, &deepest] { nest(n - 1, deepest); });
}

}  // namespace

TEST_CASE("4: a chain in which each waits for the next passes a value") {
  const int n = many(10'000);
  rt::run([&] { CHECK(chain(n) == n); });
}

TEST_CASE("5: go within go, to any depth, needs no depth of a stack") {
  const int n = testing::sanitized ? 1'000 : 100'000;
  rt::run([&] {
    int left = n;
    std::function<void()> next = [&] {
      if (--left > 0) rt::go([&] { next(); });
    };
    rt::go([&] { next(); });
    while (left > 0) rt::yield();
    int deepest = 0;
    nest(10, deepest);
    CHECK(deepest == 10);
    while (rt::goroutine_count() > 1) rt::yield();
  });
}

TEST_CASE("6: join returns at once if it has ended, and parks if it has not") {
  rt::run([] {
    std::string text;
    const rt::Handle a = rt::go([&] {
      text += "a ";
      rt::yield();
      text += "a ";
    });
    const rt::Handle b = rt::go([&] { text += "b "; });
    a.join();
    text += "joined ";
    b.join();
    a.join();
    CHECK(text == "a b a joined ");
    // Its record has another owner by now.
    const rt::Handle c = rt::go([&] { rt::sleep(1h); });
    a.join();
    b.join();
    CHECK(c.id() > b.id());
  });
}

TEST_CASE("6: several may wait for one, and all go on") {
  rt::run([] {
    int woken = 0;
    const rt::Handle slow = rt::go([] { rt::sleep(1ms); });
    std::vector<rt::Handle> all;
    for (int i = 0; i < 10; ++i) {
      all.push_back(rt::go([&] {
        slow.join();
        ++woken;
      }));
    }
    for (const rt::Handle& one : all) one.join();
    CHECK(woken == 10);
  });
}

TEST_CASE("9: a goroutine runs on when nobody holds its handle") {
  rt::run([] {
    bool done = false;
    rt::go([&] { done = true; });  // and the handle is gone
    rt::yield();
    CHECK(done);
  });
}

TEST_CASE("10: yield lets all others run before the same runs again") {
  rt::run([] {
    std::string order;
    std::vector<rt::Handle> all;
    for (const char name : {'a', 'b', 'c'}) {
      all.push_back(rt::go([&order, name] {
        for (int i = 0; i < 3; ++i) {
          order += name;
          rt::yield();
        }
      }));
    }
    for (const rt::Handle& one : all) one.join();
    CHECK(order == "abcabcabc");
    rt::yield();  // alone
  });
}

TEST_CASE(
    "11: those who always yield keep neither timers nor sockets waiting") {
  rt::run([] {
    const auto pipe = rt::pipe();
    REQUIRE_FALSE(pipe.error);
    bool slept = false;
    bool read = false;
    rt::go([&] {
      rt::sleep(10ms);
      slept = true;
    });
    rt::go([&] {
      std::array<char, 1> byte{};
      read = pipe.reader.read(byte).n == 1;
    });
    bool stop = false;
    std::vector<rt::Handle> busy;
    for (int i = 0; i < 3; ++i) {
      busy.push_back(rt::go([&] {
        while (!stop) rt::yield();
      }));
    }
    while (!slept) rt::yield();
    CHECK_FALSE(read);
    CHECK(pipe.writer.write(std::array{'x'}).n == 1);
    while (!read) rt::yield();
    stop = true;
    for (const rt::Handle& one : busy) one.join();  // they read `stop`
  });
}

TEST_CASE("14: a function that is empty is refused where go is called") {
  rt::run([] {
    CHECK_THROWS_AS(rt::go(std::function<void()>()), std::invalid_argument);
    void (*nobody)() = nullptr;
    CHECK_THROWS_AS(rt::go(nobody), std::invalid_argument);
    CHECK(rt::goroutine_count() == 1);
  });
}

TEST_CASE("162: a thousand goroutines throw and catch, by turns") {
  rt::run([] {
    std::function<int(int)> deep = [&](int n) -> int {
      if (n == 0) throw std::runtime_error("bottom");
      try {
        return deep(n - 1);
      } catch (const std::runtime_error&) {
        rt::yield();
        if (n > 1) throw;
        return n;
      }
    };
    int caught = 0;
    std::vector<rt::Handle> all;
    for (int i = 0; i < many(1'000); ++i) {
      all.push_back(rt::go([&, i] { caught += deep(1 + i % 10); }));
    }
    for (const rt::Handle& one : all) one.join();
    CHECK(caught == many(1'000));
  });
}

TEST_CASE("163: a switch within catch, and the exception is still our own") {
  rt::run([] {
    std::string text;
    std::vector<rt::Handle> all;
    for (const char* what : {"a", "b", "c"}) {
      all.push_back(rt::go([&text, what] {
        try {
          try {
            throw std::runtime_error(what);
          } catch (...) {
            rt::yield();
            throw;
          }
        } catch (const std::runtime_error& error) {
          text += error.what();
        }
      }));
    }
    rt::yield();
    CHECK(std::current_exception() == nullptr);
    for (const rt::Handle& one : all) one.join();
    CHECK(text == "abc");
  });
}

TEST_CASE("164: uncaught exceptions are counted for each goroutine") {
  rt::run([] {
    struct Yields {
      std::vector<int>* counts;
      ~Yields() {
        rt::yield();
        counts->push_back(std::uncaught_exceptions());
      }
    };
    std::vector<int> counts;
    const rt::Handle thrower = rt::go([&] {
      try {
        const Yields guard{&counts};
        throw 1;
      } catch (int) {
      }
    });
    rt::yield();
    CHECK(std::uncaught_exceptions() == 0);
    thrower.join();
    CHECK(counts == std::vector<int>{1});
  });
}

TEST_CASE("165: errno is the goroutine's own") {
  rt::run([] {
    int seen = 0;
    const rt::Handle a = rt::go([&] {
      ::close(-1);
      rt::yield();
      seen = errno;
    });
    const rt::Handle b = rt::go([] { errno = ENOENT; });
    errno = EPERM;
    a.join();
    b.join();
    CHECK(errno == EPERM);
    CHECK(seen == EBADF);
  });
}

TEST_CASE("169: the rounding mode is the goroutine's own") {
  rt::run([] {
    const auto third = [] {
      volatile double one = 1;
      return one / 3;
    };
    const double nearest = third();
    double up = 0;
    const rt::Handle a = rt::go([&] {
      std::fesetround(FE_UPWARD);
      rt::yield();
      up = third();
    });
    rt::yield();
    CHECK(third() == nearest);
    a.join();
    CHECK(up > nearest);
    CHECK(std::fegetround() == FE_TONEAREST);
  });
}

TEST_CASE("169: stacks are aligned where bodies begin") {
  rt::run([] {
    for (int i = 0; i < 20; ++i) {
      rt::go([i] {
        std::array<char, 32> text{};
        std::snprintf(text.data(), text.size(), "%.1f", i + 0.5);
        CHECK(std::string(text.data()) == std::to_string(i) + ".5");
      });
      rt::go([wide = static_cast<long double>(i)] {
        const auto place = reinterpret_cast<std::uintptr_t>(&wide);
        CHECK(place % alignof(long double) == 0);
      });
    }
    while (rt::goroutine_count() > 1) rt::yield();
  });
}
