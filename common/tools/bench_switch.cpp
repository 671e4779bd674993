// bench_switch: what it costs to go on with another stack, in several ways.

#include <linux/futex.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#if defined(HAS_BOOST_CONTEXT)
#include <boost/context/detail/fcontext.hpp>
#endif

#include "chapters/07-fiber/context.hpp"
#include "chapters/07-fiber/fiber.hpp"
#include "chapters/07-fiber/stack.hpp"
#include "chapters/07-fiber/switch.hpp"
#include "common/options.hpp"
#include "common/tools/bench.hpp"
#include "common/tools/measure.hpp"

extern "C" void reference_switch(void** from, void* to);

namespace {

constexpr std::size_t stack_size = 65'536;
constexpr std::uint64_t round_trips = 500'000;
constexpr std::uint64_t dear_round_trips = 20'000;  // of what enters the kernel

rt::StackPool& pool() {
  static rt::StackPool stacks(stack_size);
  return stacks;
}

// Takes a stack for the time of one round.
class Borrowed {
 public:
  Borrowed() = default;
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { pool().give(stack_); }

  const rt::Stack& operator*() const { return stack_; }

 private:
  rt::Stack& stack_ = pool().take();
};

// What the processor has noted of floating point operations (the flags of
// MXCSR) is forgotten, on both sides alike. If they differ, the ldmxcsr in
// each jump_fcontext of Boost 1.74 takes ten times as long, and a comparison
// with it flatters us: our own arithmetic for the figures sets them.
void forget_floating_point_flags() {
#if defined(__x86_64__)
  _mm_setcsr(0x1f80);
#endif
}

// Switches that get nothing but two stack pointers.

struct Pair {
  void* here = nullptr;
  void* there = nullptr;
};

template <void (*switch_function)(void**, void*)>
void answer_bare(void* argument) {
  auto& pair = *static_cast<Pair*>(argument);
  for (;;) switch_function(&pair.there, pair.here);
}

template <void (*switch_function)(void**, void*)>
double bare() {
  const Borrowed stack;
  Pair pair;
  pair.there =
      rt::forge_frame((*stack).top(), answer_bare<switch_function>, &pair);
  return net::cost_of_each(2 * round_trips, [&] {
    for (std::uint64_t i = 0; i < round_trips; ++i) {
      switch_function(&pair.here, pair.there);
    }
  });
}

// Switches with all that a thread has only one of.

// In one line of the cache each, as in a goroutine: else a switch is up to a
// quarter dearer, by the luck of where this stack begins.
struct Contexts {
  alignas(64) rt::Context here;
  alignas(64) rt::Context there;
};

void answer_whole(void* argument) {
  auto& contexts = *static_cast<Contexts*>(argument);
  rt::arrive(contexts.there);
  for (;;) rt::switch_to(contexts.there, contexts.here);
}

double whole() {
  const Borrowed stack;
  forget_floating_point_flags();
  Contexts contexts;
  contexts.there = rt::Context(*stack, (*stack).top(), answer_whole, &contexts);
  return net::cost_of_each(2 * round_trips, [&] {
    for (std::uint64_t i = 0; i < round_trips; ++i) {
      rt::switch_to(contexts.here, contexts.there);
    }
  });
}

#if defined(HAS_BOOST_CONTEXT)
namespace boost_context = boost::context::detail;

void answer_boost(boost_context::transfer_t from) {
  for (;;) from = boost_context::jump_fcontext(from.fctx, nullptr);
}

double boost_jump() {
  const Borrowed stack;
  forget_floating_point_flags();
  boost_context::transfer_t to{
      boost_context::make_fcontext((*stack).top(), (*stack).size, answer_boost),
      nullptr};
  return net::cost_of_each(2 * round_trips, [&] {
    for (std::uint64_t i = 0; i < round_trips; ++i) {
      to = boost_context::jump_fcontext(to.fctx, nullptr);
    }
  });
}
#endif

double fiber() {
  bool over = false;
  rt::Fiber answering(pool(), [&] {
    while (!over) rt::Fiber::suspend();
  });
  const double cost = net::cost_of_each(2 * round_trips, [&] {
    for (std::uint64_t i = 0; i < round_trips; ++i) answering.resume();
  });
  over = true;
  answering.resume();
  return cost;
}

// makecontext passes nothing but int.
ucontext_t here;
ucontext_t there;

void answer_ucontext() {
  for (;;) ::swapcontext(&there, &here);
}

double glibc_swapcontext() {
  const Borrowed stack;
  ::getcontext(&there);
  there.uc_stack.ss_sp = (*stack).low;
  there.uc_stack.ss_size = (*stack).size;
  ::makecontext(&there, answer_ucontext, 0);
  return net::cost_of_each(2 * dear_round_trips, [] {
    for (std::uint64_t i = 0; i < dear_round_trips; ++i) {
      ::swapcontext(&here, &there);
    }
  });
}

// Threads that hand over to each other, on one core.

void wait_for_turn(std::atomic<std::uint32_t>& turn, std::uint32_t mine) {
  while (turn != mine) {
    ::syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, 1 - mine, nullptr);
  }
}

void give_turn(std::atomic<std::uint32_t>& turn, std::uint32_t to) {
  turn = to;
  ::syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1);
}

double threads() {
  const net::OneCore pinned;
  return net::cost_of_each(2 * dear_round_trips, [] {
    std::atomic<std::uint32_t> turn = 0;
    std::thread answering([&] {
      for (std::uint64_t i = 0; i < dear_round_trips; ++i) {
        wait_for_turn(turn, 1);
        give_turn(turn, 0);
      }
    });
    for (std::uint64_t i = 0; i < dear_round_trips; ++i) {
      give_turn(turn, 1);
      wait_for_turn(turn, 0);
    }
    answering.join();
  });
}

const char* const reference = "the same by hand, as a reference";
const char* const bare_switch = "switch_stacks: registers";
const char* const whole_switch = "switch_to: and FP, exceptions, errno";
const char* const boost = "Boost.Context's jump_fcontext";

net::Bench compared(std::size_t rounds) {
  net::Bench bench("one switch, in nanoseconds of CPU");
  bench.add(reference, bare<reference_switch>);
  bench.add(bare_switch, bare<rt::switch_stacks>);
  bench.add(whole_switch, whole);
#if defined(HAS_BOOST_CONTEXT)
  bench.add(boost, boost_jump);
#else
  bench.absent(boost, "not found when this was configured");
#endif
  bench.add("resume or suspend of a Fiber", fiber);
  bench.add("glibc's swapcontext", glibc_swapcontext);
  bench.add("to another thread, by a futex", threads);
  bench.compare(bare_switch, reference, 1.2);
  bench.compare(whole_switch, boost, 1.1);
  bench.run(rounds);
  bench.print();
  return bench;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t rounds = 15;
  bool check = false;
  net::Options options("[--rounds N] [--check]",
                       "Measures switches to another stack, in rounds in which "
                       "each way has a turn.\nWith --check exits with status 1 "
                       "if a ratio is too high twice in a row.");
  options.number("--rounds", "rounds", 1, 10000, rounds);
  options.flag("--check", "look at the ratios", check);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& arguments) {
        if (!arguments.empty()) {
          throw net::UsageError("unexpected argument '" + arguments[0] + "'");
        }
        if (compared(rounds).within() || !check) return 0;
        std::printf("measured once more, in case the machine was busy:\n\n");
        return compared(rounds).within() ? 0 : 1;
      });
}
