#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <system_error>

#include "chapters/07-fiber/context.hpp"
#include "chapters/07-fiber/overflow.hpp"
#include "chapters/07-fiber/stack.hpp"
#include "chapters/08-scheduler/goroutine.hpp"
#include "chapters/08-scheduler/netpoll.hpp"
#include "chapters/08-scheduler/report.hpp"
#include "rt/go.hpp"
#include "rt/time.hpp"

namespace rt {

// Lets the goroutines of one thread run by turns. It sleeps in epoll_wait, and
// only when no goroutine can run.
class Scheduler {
 public:
  explicit Scheduler(const Options& options);  // throws std::system_error
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;
  ~Scheduler();

  // The one of this thread. Throws std::logic_error if there is none.
  static Scheduler& current();

  static bool runs_here() { return current_ != nullptr; }

  // The goroutine that this thread runs, or null. For signal handlers.
  static const Goroutine* running_here();

  // Runs the body, which must not throw, as goroutine 1, and all that it
  // starts, until it has ended.
  void run(const std::function<void()>& main_body, const Origin& where);

  // Goes to the end of the queue.
  Goroutine& spawn(const engine::Body& body, const Origin& where);

  // The record with that index, if it is still that goroutine's.
  Goroutine* find(std::size_t index, std::uint64_t id);

  Goroutine& running() { return *running_; }

  void yield();

  // Stops the running goroutine, which somebody must know by now: it goes on
  // after ready. `what` must be a literal.
  void park(const char* what, std::int64_t on);

  // The same, at the latest until the deadline. False: it has passed.
  bool park_until(TimePoint deadline, const char* what, std::int64_t on);

  // A parked goroutine can run; one that can already is left alone.
  void ready(Goroutine& goroutine);

  // Parks until a call in this direction is worth a try. An error: rt::closed
  // or rt::deadline_exceeded. Go: netpollblock (runtime/netpoll.go).
  std::error_code wait(Descriptor& descriptor, Slot& slot, const char* what,
                       TimePoint deadline = never);

  // Gives the number back, and those who wait find it closed. Go: evict
  // (internal/poll/fd_poll_runtime.go).
  void evict(Descriptor& descriptor);

  // Before an I/O call, whatever becomes of it: who has made many without being
  // parked yields first.
  void begin_call();

  std::size_t count() const { return count_; }
  bool ending() const { return ending_; }
  Netpoll& netpoll() { return netpoll_; }

  struct Numbers {
    std::size_t runnable, waiters, timers, stacks;
  };
  Numbers numbers() const;

  // One line for each goroutine.
  void dump(std::FILE* file) const;

 private:
  static void begin(void* goroutine);
  [[noreturn]] void end(Goroutine& self);
  void turn();
  void go_on(Goroutine& self);
  Context& next();
  void make_runnable(Goroutine& goroutine);
  void evict_all();
  void look();
  std::chrono::nanoseconds time_to_wait() const;
  void fire_timers();

  static thread_local Scheduler* current_;

  Context thread_;  // of the loop, on the stack that run was called on
  Goroutine* running_ = nullptr;
  Queue runnable_;
  std::size_t switches_left_ = 0;  // until the next look at the kernel

  // Those that wait for a time, earliest first. Equal times in the order in
  // which they came, which std::multimap promises.
  std::multimap<TimePoint, Goroutine*> timers_;
  TimePoint now_;  // as of the last look

  Netpoll netpoll_;
  std::size_t waiters_ = 0;  // parked in a slot

  std::deque<Goroutine> all_;  // records are used again, and never freed
  Queue ended_;
  std::size_t count_ = 0;
  std::uint64_t last_id_ = 0;
  bool ending_ = false;  // main has ended: whatever parks is abandoned
  StackPool stacks_;

  OverflowReport overflow_;
  Report report_;
};

}  // namespace rt
