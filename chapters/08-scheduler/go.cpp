// The public functions of rt/go.hpp and rt/time.hpp.

#include <cstddef>
#include <exception>
#include <limits>
#include <stdexcept>

#include "chapters/08-scheduler/scheduler.hpp"
#include "chapters/08-scheduler/shared_action.hpp"
#include "rt/go.hpp"
#include "rt/time.hpp"

namespace rt {
namespace {

constexpr std::size_t no_record = std::numeric_limits<std::size_t>::max();

// Writing to a pipe without readers is an error and not the end of the process.
// An action of somebody's own is left.
struct sigaction ignore_sigpipe() {
  struct sigaction action {};
  ::sigaction(SIGPIPE, nullptr, &action);
  if (action.sa_handler == SIG_DFL) action.sa_handler = SIG_IGN;
  return action;
}

}  // namespace

void engine::run(const std::function<void()>& main_body, const Options& options,
                 const Origin& where) {
  if (Scheduler::runs_here()) throw std::logic_error("rt::run inside rt::run");
  const SharedAction<SIGPIPE> ignore(ignore_sigpipe());
  Scheduler scheduler(options);
  std::exception_ptr failure;
  scheduler.run(
      [&] {
        try {
          main_body();
        } catch (...) {
          failure = std::current_exception();
        }
      },
      where);
  if (failure) std::rethrow_exception(failure);
}

Handle engine::spawn(const Body& body, const Origin& where) {
  Scheduler& scheduler = Scheduler::current();
  // If each could start one more now, run would never return.
  if (scheduler.ending()) return {no_record, 0};
  const Goroutine& goroutine = scheduler.spawn(body, where);
  return {goroutine.index, goroutine.id};
}

void Handle::join() const {
  Scheduler& scheduler = Scheduler::current();
  Goroutine* goroutine = scheduler.find(index_, id_);
  if (goroutine == nullptr) return;  // it has ended
  goroutine->joiners.push(scheduler.running());
  scheduler.park("join", static_cast<std::int64_t>(id_));
}

void yield() { Scheduler::current().yield(); }

std::size_t goroutine_count() { return Scheduler::current().count(); }

void dump(std::FILE* file) { Scheduler::current().dump(file); }

void sleep_until(TimePoint time) {
  Scheduler& scheduler = Scheduler::current();
  if (time <= Clock::now()) {
    scheduler.yield();
  } else {
    scheduler.park_until(time, "sleep", -1);
  }
}

}  // namespace rt
