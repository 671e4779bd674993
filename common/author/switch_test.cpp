// What the runtime needs of a processor. For the author: it also runs as a
// program for AArch64, see aarch64.sh.

#include <doctest/doctest.h>
#include <unwind.h>

#include <array>
#include <cerrno>
#include <cfenv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "chapters/07-fiber/fiber.hpp"
#include "chapters/07-fiber/generator.hpp"
#include "chapters/07-fiber/stack.hpp"
#include "chapters/07-fiber/switch.hpp"
#include "common/socket.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

// Calls function(argument) with the values of `in` in the registers that a
// callee must keep, and writes what is in them afterwards to `out`.
extern "C" void call_with_registers(void (*function)(void*), void* argument,
                                    const std::uint64_t* in,
                                    std::uint64_t* out);

namespace {

using namespace std::chrono_literals;

constexpr std::size_t stack_size = 65'536;

#if defined(__x86_64__)
using Registers = std::array<std::uint64_t, 6>;
#else
using Registers = std::array<std::uint64_t, 19>;
#endif

Registers counted_from(std::uint64_t first) {
  Registers registers{};
  std::iota(registers.begin(), registers.end(), first);
  return registers;
}

// Two stacks that take turns. Nothing but the bare switch stands between the
// registers of the one and those of the other.
struct Turns {
  void* one = nullptr;
  void* other = nullptr;
  Registers in;
  Registers out{};
};

void to_other(void* turns) {
  rt::switch_stacks(&static_cast<Turns*>(turns)->one,
                    static_cast<Turns*>(turns)->other);
}

void to_one(void* turns) {
  rt::switch_stacks(&static_cast<Turns*>(turns)->other,
                    static_cast<Turns*>(turns)->one);
}

void on_other_stack(void* argument) {
  auto& turns = *static_cast<Turns*>(argument);
  for (;;) {
    call_with_registers(to_one, &turns, turns.in.data(), turns.out.data());
  }
}

[[gnu::noinline]] std::uintptr_t frame_address() {
  return reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
}

_Unwind_Reason_Code count_frame(_Unwind_Context*, void* count) {
  return ++*static_cast<int*>(count) < 100 ? _URC_NO_REASON : _URC_NORMAL_STOP;
}

void echo(rt::Conn client) {
  std::array<char, 512> buffer;
  for (;;) {
    const auto [n, error] = client.read(buffer);
    if (error) return;
    client.write(std::span(buffer).first(n));
  }
}

}  // namespace

TEST_CASE("a switch keeps every register that a callee keeps") {
  rt::StackPool pool(stack_size);
  rt::Stack& stack = pool.take();
  Turns turns;
  turns.in = counted_from(100);
  turns.other = rt::forge_frame(stack.top(), on_other_stack, &turns);
  for (const std::uint64_t first : {200U, 300U, 400U}) {
    const Registers in = counted_from(first);
    Registers out{};
    call_with_registers(to_other, &turns, in.data(), out.data());
    CHECK(in == out);
    // The first time it has only begun.
    if (first > 200) CHECK(turns.in == turns.out);
  }
  pool.give(stack);
}

TEST_CASE("each fiber has its own way to round") {
  rt::StackPool pool(stack_size);
  std::fesetround(FE_UPWARD);
  rt::Fiber fiber(pool, [] {
    CHECK(std::fegetround() == FE_UPWARD);
    std::fesetround(FE_DOWNWARD);
    rt::Fiber::suspend();
    CHECK(std::fegetround() == FE_DOWNWARD);
  });
  fiber.resume();
  CHECK(std::fegetround() == FE_UPWARD);
  std::fesetround(FE_TONEAREST);
  fiber.resume();
  CHECK(std::fegetround() == FE_TONEAREST);
}

TEST_CASE("each fiber has its own exceptions and its own errno") {
  rt::StackPool pool(stack_size);
  std::vector<std::string> caught;
  const auto body = [&](const std::string& name) {
    return [&caught, name] {
      try {
        try {
          throw std::runtime_error(name);
        } catch (const std::runtime_error&) {
          errno = static_cast<int>(name.size());
          rt::Fiber::suspend();
          CHECK(errno == static_cast<int>(name.size()));
          throw;
        }
      } catch (const std::runtime_error& error) {
        caught.emplace_back(error.what());
      }
    };
  };
  rt::Fiber first(pool, body("a"));
  rt::Fiber second(pool, body("bb"));
  first.resume();
  second.resume();
  first.resume();
  second.resume();
  CHECK(caught == std::vector<std::string>{"a", "bb"});
}

TEST_CASE("an exception leaves a fiber to whoever has resumed it") {
  rt::StackPool pool(stack_size);
  rt::Fiber fiber(pool, [] { throw std::runtime_error("out"); });
  CHECK_THROWS_WITH(fiber.resume(), "out");
}

TEST_CASE("a new stack is aligned, and unwinding ends at its bottom") {
  rt::StackPool pool(stack_size);
  for (int i = 0; i < 10; ++i) {
    rt::Fiber fiber(pool, [] {
      CHECK(frame_address() % 16 == 0);
      int frames = 0;
      CHECK(_Unwind_Backtrace(count_frame, &frames) == _URC_END_OF_STACK);
      CHECK(frames > 2);
      CHECK(frames < 20);
    });
    fiber.resume();
  }
}

TEST_CASE("a thousand generators give their values by turns") {
  rt::StackPool pool(stack_size);
  std::vector<std::unique_ptr<rt::Generator<int>>> all;
  for (int i = 0; i < 1000; ++i) {
    all.push_back(
        std::make_unique<rt::Generator<int>>(pool, [i](const auto& yield) {
          for (int n = i; yield(n); ++n) {
          }
        }));
  }
  int sum = 0;
  for (int round = 0; round < 3; ++round) {
    for (const auto& generator : all) sum += generator->next().value();
  }
  CHECK(sum == 3 * 499'500 + 3 * 1000);
}

TEST_CASE("goroutines take turns, sleep, and are joined") {
  std::string order;
  rt::run([&] {
    std::vector<rt::Handle> all;
    for (const char letter : {'a', 'b'}) {
      all.push_back(rt::go([&order, letter] {
        for (int i = 0; i < 2; ++i) {
          order += letter;
          rt::yield();
        }
        rt::sleep(letter == 'a' ? 20ms : 1ms);
        order += letter;
      }));
    }
    for (const rt::Handle& handle : all) handle.join();
  });
  CHECK(order == "ababba");
}

TEST_CASE("a thousand goroutines are clients of an echo server") {
  constexpr int clients = 1000;
  int served = 0;
  rt::run([&] {
    auto [listener, error] = rt::listen(net::resolve("127.0.0.1", 0));
    REQUIRE(!error);
    rt::go([&accepting = listener] {
      for (;;) {
        auto [client, failure] = accepting.accept();
        if (failure) return;
        rt::go(echo, std::move(client));
      }
    });
    std::vector<rt::Handle> all;
    for (int i = 0; i < clients; ++i) {
      all.push_back(rt::go([&, address = listener.address()] {
        auto [conn, failure] = rt::dial(address);
        if (failure) return;
        const std::string word = "client";
        std::array<char, 64> buffer;
        if (conn.write(word).error) return;
        const auto [n, end] = conn.read(buffer);
        if (!end && std::string(buffer.data(), n) == word) ++served;
      }));
      if (i % 100 == 99) all.back().join();
    }
    for (const rt::Handle& handle : all) handle.join();
  });
  CHECK(served == clients);
}
