// Chapter 07: stacks, switches, fibers and generators.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unwind.h>

#include <array>
#include <cerrno>
#include <cfenv>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "chapters/07-fiber/fiber.hpp"
#include "chapters/07-fiber/generator.hpp"
#include "chapters/07-fiber/stack.hpp"
#include "chapters/07-fiber/switch.hpp"
#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/process.hpp"
#include "common/testing/sanitizer.hpp"

namespace {

using rt::Fiber;
using testing::ChildProcess;

constexpr std::size_t stack_size = 262'144;

// Memory of a stack that the kernel has given: pages in core.
std::size_t pages_in_core(const rt::Stack& stack) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> core(stack.size / page);
  net::check(::mincore(stack.low, stack.size, core.data()), "mincore");
  std::size_t pages = 0;
  for (const unsigned char one : core) pages += one & 1U;
  return pages;
}

// How the body ends a child of ours: its wait status.
int status_of_child(const std::function<void()>& body) {
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);  // doctest has a handler of its own
    std::signal(SIGABRT, SIG_DFL);
    body();
    std::_Exit(0);
  }
  int status = 0;
  net::check(::waitpid(child, &status, 0), "waitpid");
  return status;
}

bool dies_of_a_guard(const std::function<void()>& body) {
  const int status = status_of_child(body);
  if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGSEGV;
  return testing::sanitized && WEXITSTATUS(status) != 0;  // it reports instead
}

}  // namespace

TEST_CASE("three fibers take turns, each in the middle of its own loop") {
  rt::StackPool pool(stack_size);
  std::string text;
  const auto letters = [&text](char letter) {
    return [&text, letter] {
      for (int i = 1; i <= 3; ++i) {
        text += letter + std::to_string(i) + ' ';
        Fiber::suspend();
      }
    };
  };
  Fiber a(pool, letters('a'));
  Fiber b(pool, letters('b'));
  while (!b.done()) {
    a.resume();
    b.resume();
  }
  CHECK(text == "a1 b1 a2 b2 a3 b3 ");
  CHECK(a.done());
  CHECK_THROWS_AS(a.resume(), std::logic_error);
}

TEST_CASE("what a function keeps in registers survives a switch") {
  rt::StackPool pool(stack_size);
  const auto mix = [](std::uint64_t seed, bool stop) {
    std::array<std::uint64_t, 12> v{};
    for (std::uint64_t i = 0; i < v.size(); ++i) v[i] = seed * (i + 3);
    double f = static_cast<double>(seed) + 0.5;
    for (int round = 0; round < 50; ++round) {
      if (stop) Fiber::suspend();
      for (std::size_t i = 0; i < v.size(); ++i) {
        v[i] = v[(i + 5) % v.size()] * 31 + v[i];
      }
      f = f * 1.25 - std::floor(f);
    }
    std::uint64_t sum = static_cast<std::uint64_t>(std::fmod(f, 1e9));
    for (const std::uint64_t one : v) sum ^= one;
    return sum;
  };
  std::array<std::uint64_t, 2> result{};
  Fiber a(pool, [&] { result[0] = mix(7, true); });
  Fiber b(pool, [&] { result[1] = mix(8, true); });
  while (!a.done()) {
    a.resume();
    b.resume();
  }
  CHECK(result[0] == mix(7, false));
  CHECK(result[1] == mix(8, false));
}

TEST_CASE("a fiber may resume another one, and suspend goes back to it") {
  rt::StackPool pool(stack_size);
  std::string text;
  Fiber inner(pool, [&] {
    text += "inner ";
    Fiber::suspend();
    text += "inner again ";
  });
  Fiber outer(pool, [&] {
    CHECK(Fiber::running() == &outer);
    inner.resume();
    text += "outer ";
    CHECK(Fiber::running() == &outer);
    CHECK_THROWS_AS(outer.resume(), std::logic_error);
    Fiber::suspend();
    inner.resume();
  });
  outer.resume();
  CHECK(Fiber::running() == nullptr);
  text += "thread ";
  outer.resume();
  CHECK(text == "inner outer thread inner again ");
  CHECK(inner.done());
  CHECK_THROWS_AS(Fiber::suspend(), std::logic_error);
}

TEST_CASE("a fiber of nothing is refused, one that never ran may go") {
  rt::StackPool pool(stack_size);
  CHECK_THROWS_AS(Fiber(pool, nullptr), std::invalid_argument);
  const auto kept = std::make_shared<int>(1);
  {
    const Fiber fiber(pool, [kept] {});
  }
  CHECK(kept.use_count() == 1);
  CHECK(pool.free() == pool.made());
}

TEST_CASE("a fiber destroyed before its end ends the process, with its id") {
  std::array<int, 2> ends{};
  net::check(::pipe(ends.data()), "pipe");
  const net::Fd out(ends[0]);
  net::Fd in(ends[1]);
  rt::StackPool pool(stack_size);
  const Fiber last(pool, [] {});
  const int status = status_of_child([&] {
    ::dup2(in.get(), STDERR_FILENO);
    Fiber fiber(pool, [] { Fiber::suspend(); });
    fiber.resume();
  });
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGABRT);
  in = net::Fd();
  std::string said(200, ' ');
  const ssize_t n = ::read(out.get(), said.data(), said.size());
  REQUIRE(n > 0);
  CHECK(said.starts_with("fiber " + std::to_string(last.id() + 1) +
                         " is destroyed before it has ended\n"));
}

TEST_CASE("an exception that leaves the body leaves resume") {
  rt::StackPool pool(stack_size);
  const auto kept = std::make_shared<int>(1);
  Fiber fiber(pool, [kept] {
    Fiber::suspend();
    throw std::runtime_error("boom");
  });
  fiber.resume();
  CHECK_THROWS_WITH_AS(fiber.resume(), "boom", std::runtime_error);
  CHECK(fiber.done());
  CHECK(kept.use_count() == 1);
}

TEST_CASE("162: throw and catch within a fiber, at any depth") {
  rt::StackPool pool(stack_size);
  std::function<int(int)> deep = [&](int n) -> int {
    if (n == 0) throw std::runtime_error("bottom");
    try {
      return deep(n - 1);
    } catch (const std::runtime_error&) {
      if (n % 2 == 0) throw;
      Fiber::suspend();
      return n;
    }
  };
  int result = 0;
  Fiber fiber(pool, [&] { result = deep(50); });
  while (!fiber.done()) fiber.resume();
  CHECK(result == 1);
}

TEST_CASE("163: a switch within catch: the exception is still our own") {
  rt::StackPool pool(stack_size);
  std::string text;
  const auto thrower = [&text](const char* what) {
    return [&text, what] {
      try {
        try {
          throw std::runtime_error(what);
        } catch (...) {
          Fiber::suspend();
          throw;
        }
      } catch (const std::runtime_error& error) {
        text += error.what();
      }
    };
  };
  Fiber a(pool, thrower("a"));
  Fiber b(pool, thrower("b"));
  a.resume();
  b.resume();
  CHECK(std::current_exception() == nullptr);
  a.resume();
  b.resume();
  CHECK(text == "ab");
}

namespace {

struct SuspendsInDestructor {
  std::vector<int>* counts;
  ~SuspendsInDestructor() {
    counts->push_back(std::uncaught_exceptions());
    Fiber::suspend();
    counts->push_back(std::uncaught_exceptions());
  }
};

}  // namespace

TEST_CASE("164: uncaught exceptions are counted for each fiber") {
  rt::StackPool pool(stack_size);
  std::vector<int> counts;
  Fiber fiber(pool, [&] {
    try {
      const SuspendsInDestructor guard{&counts};
      throw 1;
    } catch (int) {
      counts.push_back(std::uncaught_exceptions());
    }
  });
  fiber.resume();
  CHECK(std::uncaught_exceptions() == 0);
  fiber.resume();
  CHECK(counts == std::vector<int>{1, 1, 0});
}

TEST_CASE("165: errno is the fiber's own") {
  rt::StackPool pool(stack_size);
  int seen = 0;
  Fiber a(pool, [&] {
    ::close(-1);
    Fiber::suspend();
    seen = errno;
  });
  Fiber b(pool, [] { errno = ENOENT; });
  errno = EPERM;
  a.resume();
  b.resume();
  CHECK(errno == EPERM);
  a.resume();
  CHECK(seen == EBADF);
}

TEST_CASE("169: the rounding mode is the fiber's own, and it inherits one") {
  rt::StackPool pool(stack_size);
  const auto third = [] {
    volatile double one = 1;
    return one / 3;
  };
  const double nearest = third();
  double up = 0;
  double inherited = 0;
  Fiber a(pool, [&] {
    std::fesetround(FE_UPWARD);
    Fiber::suspend();
    up = third();
    Fiber b(pool, [&] { inherited = third(); });
    b.resume();
  });
  a.resume();
  CHECK(third() == nearest);
  CHECK(std::fegetround() == FE_TONEAREST);
  a.resume();
  CHECK(up > nearest);
  CHECK(inherited == up);
  CHECK(std::fegetround() == FE_TONEAREST);
}

TEST_CASE("169: the stack is aligned where a body begins") {
  rt::StackPool pool(stack_size);
  for (int i = 0; i < 20; ++i) {  // every colour
    std::array<char, 32> text{};
    std::uintptr_t place = 1;
    Fiber fiber(pool, [&] {
      alignas(16) std::array<char, 16> local{};
      place = reinterpret_cast<std::uintptr_t>(local.data());
      std::snprintf(text.data(), text.size(), "%.2f", 1.0 + i);
    });
    Fiber held(pool, [] { Fiber::suspend(); });
    fiber.resume();
    held.resume();
    held.resume();
    CHECK(place % 16 == 0);
    CHECK(std::string(text.data()) == std::to_string(1 + i) + ".00");
  }
}

namespace {

struct Walk {
  int frames = 0;
  _Unwind_Ptr last = 0;
};

_Unwind_Reason_Code count_frame(_Unwind_Context* context, void* walk) {
  auto& so_far = *static_cast<Walk*>(walk);
  // Behind the first frame there is one more, of nothing.
  if (_Unwind_GetIP(context) != 0) so_far.last = _Unwind_GetIP(context);
  return ++so_far.frames < 1000 ? _URC_NO_REASON : _URC_END_OF_STACK;
}

}  // namespace

TEST_CASE("whoever walks the frames of a fiber ends at its first one") {
  rt::StackPool pool(stack_size);
  Walk walk;
  Fiber fiber(pool, [&walk] { _Unwind_Backtrace(count_frame, &walk); });
  fiber.resume();
  CHECK(walk.frames < 100);
  const auto first = reinterpret_cast<_Unwind_Ptr>(&rt::first_frame);
  CHECK(walk.last > first);
  CHECK(walk.last < first + 32);
}

TEST_CASE("a stack costs the pages it has touched") {
  rt::StackPool pool(stack_size);
  rt::Stack& stack = pool.take();
  CHECK(pages_in_core(stack) == 0);
  stack.top()[-1] = std::byte{1};
  CHECK(pages_in_core(stack) == 1);
  pool.give(stack);
}

TEST_CASE("stacks are used again, the last one first") {
  rt::StackPool pool(stack_size);
  rt::Stack& a = pool.take();
  rt::Stack& b = pool.take();
  CHECK(&a != &b);
  pool.give(a);
  pool.give(b);
  CHECK(&pool.take() == &b);
  CHECK(&pool.take() == &a);
  CHECK(pool.made() == 2);
  pool.give(a);
  CHECK_THROWS_AS(pool.give(a), std::logic_error);
  pool.give(b);
}

TEST_CASE("what was not needed for a while goes back, and still works") {
  rt::StackPool pool(stack_size);
  std::vector<rt::Stack*> all;
  const std::size_t n = testing::sanitized ? 3'000 : 10'000;
  while (all.size() < n) all.push_back(&pool.take());
  for (rt::Stack* stack : all) stack->top()[-1] = std::byte{1};
  for (rt::Stack* stack : all) pool.give(*stack);
  CHECK(pool.warm() < 2'100);
  std::size_t pages = 0;
  for (const rt::Stack* stack : all) pages += pages_in_core(*stack);
  CHECK(pages == pool.warm());
  for (rt::Stack*& stack : all) {
    stack = &pool.take();
    stack->top()[-1] = std::byte{2};
  }
  CHECK(pool.made() == n);
  for (rt::Stack* stack : all) pool.give(*stack);
}

TEST_CASE("both ends of a stack are guarded, either way") {
  for (const rt::Guard guard : {rt::best_guard(), rt::Guard::Protect}) {
    rt::StackPool pool(stack_size, guard);
    rt::Stack& stack = pool.take();
    stack.low[0] = std::byte{1};
    stack.low[stack.size - 1] = std::byte{1};
    volatile std::byte* low = stack.low;
    CHECK(dies_of_a_guard([=] { low[-1] = std::byte{1}; }));
    CHECK(dies_of_a_guard([=] { low[-65'536] = std::byte{1}; }));
    CHECK(dies_of_a_guard([=] { low[stack_size] = std::byte{1}; }));
    pool.give(stack);
    CHECK(&pool.take() == &stack);
    CHECK(dies_of_a_guard([=] { low[-1] = std::byte{1}; }));
    pool.give(stack);
  }
}

TEST_CASE("a generator gives its values one by one, then nothing") {
  rt::StackPool pool(stack_size);
  rt::Generator<std::unique_ptr<int>> numbers(pool, [](const auto& yield) {
    for (int i = 1; i <= 3; ++i) {
      if (!yield(std::make_unique<int>(i))) return;
    }
  });
  std::string text;
  while (const auto value = numbers.next()) text += std::to_string(**value);
  CHECK(text == "123");
  CHECK_FALSE(numbers.next().has_value());
}

TEST_CASE("a generator that nobody wants more of returns") {
  rt::StackPool pool(stack_size);
  const auto kept = std::make_shared<int>(0);
  {
    rt::Generator<int> numbers(pool, [kept](const auto& yield) {
      const auto on_the_stack = kept;
      for (int i = 0; yield(i); ++i) ++*on_the_stack;
    });
    CHECK(numbers.next() == 0);
    CHECK(numbers.next() == 1);
    CHECK(*kept == 1);
  }
  CHECK(kept.use_count() == 1);
  CHECK(*kept == 1);
  {
    const rt::Generator<int> never_asked(pool, [kept](const auto&) {});
  }
  CHECK(kept.use_count() == 1);
  CHECK(pool.free() == pool.made());
}

TEST_CASE("an exception of a generator's body leaves next") {
  rt::StackPool pool(stack_size);
  rt::Generator<int> numbers(pool, [](const auto& yield) {
    yield(1);
    throw std::runtime_error("no more");
  });
  CHECK(numbers.next() == 1);
  CHECK_THROWS_WITH(numbers.next(), "no more");
  CHECK_FALSE(numbers.next().has_value());
}

TEST_CASE("the program: fibers interleave, generators find primes") {
  ChildProcess program({PROGRAM});
  CHECK(program.wait() == 0);
  CHECK(program.output() ==
        "a1 b1 c1 a2 b2 c2 a3 b3 c3 \n2 3 5 7 11 13 17 19 23 29 \n");
  ChildProcess wrong({PROGRAM, "vowels"});
  CHECK(wrong.wait() == 2);
  CHECK(wrong.errors().starts_with(
      "07-fiber: unexpected argument 'vowels'\nusage: 07-fiber"));
}

TEST_CASE("the program: a stack that is used up is named, and it is SIGSEGV") {
  ChildProcess program({PROGRAM, "overflow"});
  const int status = program.wait();
  CHECK((testing::sanitized || status == 128 + SIGSEGV));
  CHECK(program.errors().find("fiber 1: stack overflow at 0x") == 0);
  CHECK(program.errors().find(": all of its 262144 bytes are used\n") !=
        std::string::npos);
}

TEST_CASE("its limit: a fiber that sleeps in read stops all fibers") {
  std::array<int, 2> ends{};
  net::check(::pipe(ends.data()), "pipe");
  const net::Fd out(ends[0]);
  const net::Fd in(ends[1]);
  void* memory = ::mmap(nullptr, 1, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto& worked = *static_cast<volatile char*>(memory);
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) {
    rt::StackPool pool(stack_size);
    Fiber reader(pool, [&] {
      char byte = 0;
      if (::read(out.get(), &byte, 1) != 1) std::_Exit(1);
    });
    Fiber worker(pool, [&] { worked = 1; });
    reader.resume();
    worker.resume();
    std::_Exit(0);
  }
  testing::wait_until_settled(child);
  CHECK(worked == 0);  // it could run, but the thread sleeps
  CHECK(::write(in.get(), "x", 1) == 1);
  int status = 0;
  net::check(::waitpid(child, &status, 0), "waitpid");
  CHECK(status == 0);
  CHECK(worked == 1);
  ::munmap(memory, 1);
}
