// What a switch costs, counted: a child of ours runs one instruction at a time.

#include <doctest/doctest.h>
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <thread>

#include "chapters/07-fiber/context.hpp"
#include "chapters/07-fiber/stack.hpp"
#include "chapters/07-fiber/switch.hpp"
#include "common/error.hpp"
#include "common/testing/sanitizer.hpp"

namespace {

struct Cost {
  long instructions = 0;
  long system_calls = 0;
};

// Whether the child stands before a system call.
bool at_system_call(pid_t child) {
  user_regs_struct registers{};
  iovec all{&registers, sizeof registers};
  if (::ptrace(PTRACE_GETREGSET, child, NT_PRSTATUS, &all) < 0) return false;
#if defined(__x86_64__)
  const std::uint64_t place = registers.rip;
  constexpr long instruction = 0x050F, mask = 0xFFFF;  // syscall
#else
  const std::uint64_t place = registers.pc;
  constexpr long instruction = 0xD4000001, mask = 0xFFFFFFFF;  // svc #0
#endif
  const long word = ::ptrace(PTRACE_PEEKTEXT, child, place, nullptr);
  return (word & mask) == instruction;
}

// What the first thread of a child executes to do something n times. Nothing
// if nobody may be traced here.
std::optional<Cost> count(const std::function<void(int)>& something, int n) {
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) < 0) std::_Exit(1);
    ::raise(SIGSTOP);
    something(n);
    ::raise(SIGSTOP);
    std::_Exit(0);
  }
  int status = 0;
  Cost cost;
  net::check(::waitpid(child, &status, 0), "waitpid");
  if (!WIFSTOPPED(status)) return std::nullopt;
  do {
    if (at_system_call(child)) ++cost.system_calls;
    ++cost.instructions;
    net::check(::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr), "ptrace");
    net::check(::waitpid(child, &status, 0), "waitpid");
  } while (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  return cost;
}

// Of one: 60 times less 20 times, so that beginning and end do not count.
std::optional<Cost> cost_of(const std::function<void(int)>& something) {
  const auto few = count(something, 20);
  const auto many = count(something, 60);
  if (!few || !many) return std::nullopt;
  return Cost{(many->instructions - few->instructions) / 40,
              (many->system_calls - few->system_calls) / 40};
}

void* bare_thread = nullptr;
void* bare_fiber = nullptr;

void switch_bare(int n) {
  rt::StackPool pool(65'536);
  bare_fiber = rt::forge_frame(
      pool.take().top(),
      [](void*) {
        for (;;) rt::switch_stacks(&bare_fiber, bare_thread);
      },
      nullptr);
  for (int i = 0; i < n; ++i) rt::switch_stacks(&bare_thread, bare_fiber);
}

struct Two {
  rt::Context thread;
  rt::Context fiber;
};

void switch_contexts(int n) {
  rt::StackPool pool(65'536);
  const rt::Stack& stack = pool.take();
  Two two;
  two.fiber = rt::Context(
      stack, stack.top(),
      [](void* argument) {
        Two& both = *static_cast<Two*>(argument);
        rt::arrive(both.fiber);
        for (;;) rt::switch_to(both.fiber, both.thread);
      },
      &two);
  for (int i = 0; i < n; ++i) rt::switch_to(two.thread, two.fiber);
}

ucontext_t posix_thread;
ucontext_t posix_fiber;

void switch_posix(int n) {
  rt::StackPool pool(65'536);
  const rt::Stack& stack = pool.take();
  ::getcontext(&posix_fiber);
  posix_fiber.uc_stack.ss_sp = stack.low;
  posix_fiber.uc_stack.ss_size = stack.size;
  ::makecontext(
      &posix_fiber,
      +[] {
        for (;;) ::swapcontext(&posix_fiber, &posix_thread);
      },
      0);
  for (int i = 0; i < n; ++i) ::swapcontext(&posix_thread, &posix_fiber);
}

// Two threads by turns: what the first one does for it.
void switch_threads(int n) {
  std::array<int, 2> there{};
  std::array<int, 2> back{};
  if (::pipe(there.data()) < 0 || ::pipe(back.data()) < 0) std::_Exit(1);
  char byte = 0;
  std::thread other([&] {
    char its = 0;
    while (::read(there[0], &its, 1) == 1) {
      if (::write(back[1], &its, 1) != 1) return;
    }
  });
  for (int i = 0; i < n; ++i) {
    if (::write(there[1], &byte, 1) != 1) return;
    if (::read(back[0], &byte, 1) != 1) return;
  }
  ::close(there[1]);
  other.join();
}

}  // namespace

TEST_CASE("there and back: a few dozen instructions and no system call") {
  if (testing::sanitized) {
    MESSAGE("instructions would be the sanitizer's: nothing is counted");
    return;
  }
  const auto bare = cost_of(switch_bare);
  if (!bare) {
    MESSAGE("nobody may be traced here: nothing is counted");
    return;
  }
  const auto full = cost_of(switch_contexts);
  const auto posix = cost_of(switch_posix);
  const auto threads = cost_of(switch_threads);
  REQUIRE((full && posix && threads));
  MESSAGE("instructions and system calls, there and back: switch_stacks "
          << bare->instructions << " and " << bare->system_calls
          << ", switch_to " << full->instructions << " and "
          << full->system_calls << ", swapcontext " << posix->instructions
          << " and " << posix->system_calls << ", two threads and pipes "
          << threads->instructions << " and " << threads->system_calls
          << " in one of them");
  CHECK(bare->system_calls == 0);
  CHECK(full->system_calls == 0);
  CHECK(posix->system_calls == 2);
  CHECK(threads->system_calls == 2);
  CHECK(bare->instructions < 60);
  CHECK(full->instructions < 130);
  CHECK(bare->instructions < full->instructions);
}
