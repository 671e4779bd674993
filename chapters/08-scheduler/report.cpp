#include "chapters/08-scheduler/report.hpp"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <vector>

#include "chapters/07-fiber/signal_line.hpp"
#include "chapters/08-scheduler/scheduler.hpp"

namespace rt {
namespace {

// A signal is the process's: of several schedulers, each on a thread of its
// own, the one that came last is woken to answer.
std::mutex answering_mutex;
std::vector<const Netpoll*> answering;
std::atomic<const Netpoll*> netpoll_to_interrupt = nullptr;  // answering.back()

std::string_view base_name(std::string_view path) {
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

}  // namespace

// The list is printed by the scheduler, which may be asleep, or far away while
// a goroutine computes; then at least that one is named at once.
void Report::on_sigquit(int) {
  const int error = errno;
  list_wanted_ = true;
  if (const Netpoll* netpoll = netpoll_to_interrupt) netpoll->interrupt();
  if (const Goroutine* running = Scheduler::running_here()) {
    SignalLine() << "goroutine " << running->id
                 << " is running; the list follows when it parks or yields";
  }
  errno = error;
}

struct sigaction Report::sigquit_action() {
  struct sigaction action {};
  action.sa_handler = on_sigquit;
  action.sa_flags = SA_ONSTACK | SA_RESTART;
  return action;
}

Report::Report(const Netpoll& netpoll)
    : netpoll_(netpoll), answer_(sigquit_action()), start_(Clock::now()) {
  const char* wanted = std::getenv("RT_TRACE");
  if (wanted != nullptr && std::string_view(wanted) == "1") {
    next_trace_ = start_ + std::chrono::seconds(1);
  }
  const std::lock_guard lock(answering_mutex);
  answering.push_back(&netpoll_);
  netpoll_to_interrupt = &netpoll_;
}

Report::~Report() {
  const std::lock_guard lock(answering_mutex);
  std::erase(answering, &netpoll_);
  netpoll_to_interrupt = answering.empty() ? nullptr : answering.back();
}

void Report::say(const Scheduler& scheduler, TimePoint now) {
  if (list_wanted_.exchange(false)) scheduler.dump(stderr);
  if (now >= next_trace_) trace(scheduler, now);
}

void Report::trace(const Scheduler& scheduler, TimePoint now) {
  const Scheduler::Numbers numbers = scheduler.numbers();
  const std::chrono::duration<double> passed = now - start_;
  std::fprintf(stderr,
               "rt %.1f s: workers 1, goroutines %zu, runnable %zu, "
               "in netpoll %zu, timers %zu, stacks %zu\n",
               passed.count(), scheduler.count(), numbers.runnable,
               numbers.waiters, numbers.timers, numbers.stacks);
  next_trace_ = now + std::chrono::seconds(1);
}

void print(std::FILE* file, const Goroutine& goroutine, TimePoint now) {
  std::fprintf(file, "goroutine %ju [", std::uintmax_t{goroutine.id});
  if (goroutine.state == Goroutine::State::Running) {
    std::fprintf(file, "running");
  } else if (goroutine.state == Goroutine::State::Runnable) {
    std::fprintf(file, "runnable");
  } else {
    const Goroutine::Wait& wait = goroutine.wait;
    std::fprintf(file, "%s", wait.what);
    if (wait.on >= 0) std::fprintf(file, " %jd", std::intmax_t{wait.on});
    const std::chrono::duration<double> passed = now - wait.since;
    std::fprintf(file, ", %.1f s", passed.count());
  }
  const std::string_view name = base_name(goroutine.origin.file);
  std::fprintf(file, "], created at %.*s:%d\n", static_cast<int>(name.size()),
               name.data(), goroutine.origin.line);
}

void die_of_exception(const Goroutine& goroutine, const char* what) {
  std::fflush(stdout);
  std::fprintf(stderr, "exception in a goroutine: %s\n", what);
  print(stderr, goroutine, {});
  std::_Exit(2);
}

void die_of_deadlock(const Scheduler& scheduler) {
  std::fflush(stdout);
  std::fprintf(stderr, "all goroutines are asleep - deadlock!\n");
  scheduler.dump(stderr);
  std::_Exit(2);
}

}  // namespace rt
