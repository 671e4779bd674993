// Every register by its name, and an echo through the whole of the runtime. For
// the author: aarch64.sh runs it as a program for AArch64, too.

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "chapters/07-fiber/stack.hpp"
#include "chapters/07-fiber/switch.hpp"
#include "common/socket.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"

// Calls function(argument) with the values of `in` in the registers that a
// callee must keep, and writes what is in them afterwards to `out`.
extern "C" void call_with_registers(void (*function)(void*), void* argument,
                                    const std::uint64_t* in,
                                    std::uint64_t* out);

namespace {

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
