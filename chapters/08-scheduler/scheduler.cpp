#include "chapters/08-scheduler/scheduler.hpp"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>
#include <utility>

#include "rt/net.hpp"

namespace rt {
namespace {

// If somebody can always run, the kernel and the clock are looked at once all
// have had a turn, but not more often than after so many switches.
constexpr std::size_t least_switches = 61;

// A goroutine whose descriptor is always ready would never park.
constexpr int calls_a_turn = 16;

// Once run is ending every call fails, and who tries again would never return.
constexpr int calls_at_the_end = 1'000'000;

// What must be left below a body, or there is no goroutine to report that its
// stack is used up.
constexpr std::size_t first_frames = 512;

// Brings the body to the top of the stack; where it is now.
std::byte* move_to(const Stack& stack, const engine::Body& body) {
  const std::size_t alignment = std::max<std::size_t>(body.alignment, 16);
  const auto top = reinterpret_cast<std::uintptr_t>(stack.top());
  const std::size_t taken = body.size + (top - body.size) % alignment;
  const auto room = static_cast<std::size_t>(stack.top() - stack.low);
  if (body.size > room || taken + first_frames > room) {
    throw std::invalid_argument("rt::go: the function is as large as a stack");
  }
  std::byte* place = stack.top() - taken;
  body.move(body.object, place);
  return place;
}

OverflowReport::Running who_runs() {
  const Goroutine* running = Scheduler::running_here();
  if (running == nullptr) return {"thread", 0, nullptr};
  return {"goroutine", running->id, running->stack};
}

}  // namespace

constinit thread_local Scheduler* Scheduler::current_ = nullptr;

Scheduler::Scheduler(const Options& options)
    : now_(Clock::now()),
      stacks_(options.stack_size),
      overflow_(who_runs),
      report_(netpoll_) {
  current_ = this;
}

Scheduler::~Scheduler() {
  // Left by an exception: descriptors that outlive us must find themselves
  // closed, as their destructors could no longer do it.
  evict_all();
  current_ = nullptr;
}

Scheduler& Scheduler::current() {
  if (current_ == nullptr) throw std::logic_error("outside of rt::run");
  return *current_;
}

const Goroutine* Scheduler::running_here() {
  return current_ == nullptr ? nullptr : current_->running_;
}

void Scheduler::run(const std::function<void()>& main_body,
                    const Origin& where) {
  // The loop is the next to run: a goroutine that runs before it has looked
  // could start another one, which would get the record of main.
  auto body = [&] {
    main_body();
    switches_left_ = 0;
  };
  const Goroutine& main = spawn(engine::body_of(body), where);
  while (main.state != Goroutine::State::Ended) turn();
  ending_ = true;
  evict_all();
  while (!runnable_.empty()) turn();
}

Goroutine& Scheduler::spawn(const engine::Body& body, const Origin& where) {
  if (ended_.empty()) {
    ended_.push(all_.emplace_back());
    all_.back().index = all_.size() - 1;
  }
  Stack& stack = stacks_.take();
  Goroutine& goroutine = ended_.pop();  // now: what is moved may spawn as well
  std::byte* place = nullptr;
  try {
    place = move_to(stack, body);
  } catch (...) {
    stacks_.give(stack);
    ended_.push(goroutine);
    throw;
  }
  goroutine.context = Context(stack, place, begin, &goroutine);
  goroutine.id = ++last_id_;
  goroutine.stack = &stack;
  goroutine.body = place;
  goroutine.run_body = body.run;
  goroutine.origin = where;
  goroutine.calls = 0;
  ++count_;
  make_runnable(goroutine);
  return goroutine;
}

void Scheduler::begin(void* goroutine) {
  Goroutine& self = *static_cast<Goroutine*>(goroutine);
  arrive(self.context);
  try {
    self.run_body(self.body);
  } catch (const std::exception& error) {
    die_of_exception(self, error.what());
  } catch (...) {
    die_of_exception(self, "not a std::exception");
  }
  current().end(self);
}

// The stack it stands on is given back here and taken by nobody before the
// switch has left it.
void Scheduler::end(Goroutine& self) {
  while (!self.joiners.empty()) ready(self.joiners.pop());
  self.state = Goroutine::State::Ended;
  ended_.push(self);
  --count_;
  stacks_.give(*self.stack);
  leave(self.context, next());
}

Goroutine* Scheduler::find(std::size_t index, std::uint64_t id) {
  if (index >= all_.size()) return nullptr;
  Goroutine& goroutine = all_[index];
  const bool ended = goroutine.state == Goroutine::State::Ended;
  return ended || goroutine.id != id ? nullptr : &goroutine;
}

// The next to run: a goroutine, or, if nobody can, or it is time for a look at
// the kernel, or somebody wants the list, the loop on the stack of run.
Context& Scheduler::next() {
  if (runnable_.empty() || Report::list_wanted() || switches_left_-- == 0) {
    running_ = nullptr;
    return thread_;
  }
  running_ = &runnable_.pop();
  running_->state = Goroutine::State::Running;
  return running_->context;
}

void Scheduler::go_on(Goroutine& self) {
  Context& to = next();
  if (&to != &self.context) switch_to(self.context, to);
}

// One turn of the loop: a look at the kernel, then goroutines, each of which
// switches to the next by itself.
void Scheduler::turn() {
  look();
  Context& to = next();
  if (&to != &thread_) switch_to(thread_, to);
}

void Scheduler::yield() {
  Goroutine& self = *running_;
  if (ending_) park("the end of run", -1);
  make_runnable(self);
  go_on(self);
}

void Scheduler::park(const char* what, std::int64_t on) {
  Goroutine& self = *running_;
  self.state = Goroutine::State::Parked;
  self.wait = {what, on, now_};
  self.calls = 0;
  go_on(self);
}

bool Scheduler::park_until(TimePoint deadline, const char* what,
                           std::int64_t on) {
  Goroutine& self = *running_;
  self.timed_out = false;
  if (deadline == never) {
    park(what, on);
    return true;
  }
  const auto timer = timers_.emplace(deadline, &self);
  park(what, on);
  if (!self.timed_out) timers_.erase(timer);
  return !self.timed_out;
}

void Scheduler::ready(Goroutine& goroutine) {
  if (goroutine.state != Goroutine::State::Parked) return;
  if (std::exchange(goroutine.in_netpoll, false)) --waiters_;
  make_runnable(goroutine);
}

void Scheduler::make_runnable(Goroutine& goroutine) {
  goroutine.state = Goroutine::State::Runnable;
  runnable_.push(goroutine);
}

void Scheduler::begin_call() {
  if (++running_->calls <= calls_a_turn) return;
  if (ending_ && running_->calls <= calls_at_the_end) return;
  running_->calls = 1;
  yield();
}

std::error_code Scheduler::wait(Descriptor& descriptor, Slot& slot,
                                const char* what, TimePoint deadline) {
  if (descriptor.closed) return closed;
  if (slot.state == Slot::State::Ready) return {};
  slot.state = Slot::State::Waiting;
  slot.waiter = running_;
  running_->in_netpoll = true;
  ++waiters_;
  park_until(deadline, what, descriptor.fd.get());
  if (descriptor.closed) return closed;
  if (slot.state == Slot::State::Ready) return {};
  slot.state = Slot::State::Empty;
  return deadline_exceeded;
}

// No call is in the kernel now: on this thread we are the only ones to run. So
// the number can be given back at once, and who wakes does not use it again.
void Scheduler::evict(Descriptor& descriptor) {
  netpoll_.remove(descriptor);
  descriptor.closed = true;
  descriptor.fd = net::Fd();
  for (Slot* slot : {&descriptor.reading, &descriptor.writing}) {
    if (slot->state == Slot::State::Waiting) ready(*slot->waiter);
    slot->state = Slot::State::Empty;
    while (!slot->turn.empty()) ready(slot->turn.pop());
  }
}

void Scheduler::evict_all() {
  for (Descriptor* descriptor : netpoll_.descriptors()) evict(*descriptor);
}

void Scheduler::look() {
  const bool idle = runnable_.empty();
  if (idle && waiters_ == 0 && timers_.empty()) die_of_deadlock(*this);
  if (idle || waiters_ > 0) {
    Queue woken = netpoll_.wait(time_to_wait());
    while (!woken.empty()) ready(woken.pop());
  }
  now_ = Clock::now();
  fire_timers();
  report_.say(*this, now_);
  switches_left_ = std::max(runnable_.size(), least_switches);
}

std::chrono::nanoseconds Scheduler::time_to_wait() const {
  if (!runnable_.empty()) return std::chrono::nanoseconds::zero();
  TimePoint until = report_.next();
  if (!timers_.empty()) until = std::min(until, timers_.begin()->first);
  if (until == never) return std::chrono::nanoseconds::max();
  const TimePoint now = Clock::now();
  return until > now ? until - now : Clock::duration::zero();
}

void Scheduler::fire_timers() {
  while (!timers_.empty() && timers_.begin()->first <= now_) {
    Goroutine& sleeper = *timers_.begin()->second;
    timers_.erase(timers_.begin());
    sleeper.timed_out = true;
    ready(sleeper);
  }
}

Scheduler::Numbers Scheduler::numbers() const {
  return {runnable_.size(), waiters_, timers_.size(), stacks_.made()};
}

void Scheduler::dump(std::FILE* file) const {
  const TimePoint now = Clock::now();
  for (const Goroutine& goroutine : all_) {
    if (goroutine.state != Goroutine::State::Ended) {
      print(file, goroutine, now);
    }
  }
}

}  // namespace rt
