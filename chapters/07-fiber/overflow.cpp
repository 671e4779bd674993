#include "chapters/07-fiber/overflow.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "chapters/07-fiber/signal_line.hpp"
#include "common/error.hpp"

namespace rt {
namespace {

// Of the process, as the action of a signal is. A handler has no argument.
OverflowReport::Running (*who_runs)() = nullptr;
struct sigaction old_action {};
std::atomic<int> reports = 0;  // that live, each on a thread of its own

void say(const OverflowReport::Running& running, const std::byte* address) {
  SignalLine line;
  line << running.kind << " " << running.id;
  if (address < running.stack->low) {
    line << ": stack overflow at " << address << ": all of its "
         << running.stack->size << " bytes are used";
  } else {
    line << ": write above its stack at " << address;
  }
}

void report(int number, siginfo_t* info, void*) {
  const OverflowReport::Running running = who_runs();
  if (running.stack != nullptr && running.stack->guards(info->si_addr)) {
    say(running, static_cast<const std::byte*>(info->si_addr));
  }
  // Back to the instruction that failed: it fails again, and the one who had
  // the signal before us decides. One that a process has sent would not come
  // again by itself.
  ::sigaction(SIGSEGV, &old_action, nullptr);
  if (info->si_code <= 0) raise(number);
}

}  // namespace

OverflowReport::OverflowReport(Running (*who)())
    : memory_(std::max<std::size_t>(
          16384, static_cast<std::size_t>(sysconf(_SC_SIGSTKSZ)))) {
  stack_t own{};
  own.ss_sp = memory_.data();
  own.ss_size = memory_.size();
  net::check(::sigaltstack(&own, &old_stack_), "sigaltstack");
  if (++reports > 1) return;
  who_runs = who;
  struct sigaction action {};
  action.sa_sigaction = report;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  net::check(::sigaction(SIGSEGV, &action, &old_action), "sigaction");
}

OverflowReport::~OverflowReport() {
  if (--reports == 0) ::sigaction(SIGSEGV, &old_action, nullptr);
  ::sigaltstack(&old_stack_, nullptr);
}

}  // namespace rt
