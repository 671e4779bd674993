#include "chapters/07-fiber/fiber.hpp"

#include <cstdio>
#include <stdexcept>
#include <utility>

namespace rt {
namespace {

// Of this thread. Not used by code that a switch could move to another thread.
thread_local Fiber* running_fiber = nullptr;
thread_local std::uint64_t last_id = 0;

Context& thread_context() {
  thread_local Context context;
  return context;
}

}  // namespace

Fiber::Fiber(StackPool& pool, std::function<void()> body)
    : pool_(pool),
      stack_(pool.take()),
      body_(std::move(body)),
      context_(stack_, stack_.top(), begin, this),
      id_(++last_id) {
  if (body_) return;
  pool_.give(stack_);
  throw std::invalid_argument("a fiber needs a function");
}

Fiber::~Fiber() {
  if (state_ == State::Suspended || state_ == State::Running) {
    std::fprintf(stderr, "fiber %llu is destroyed before it has ended\n",
                 static_cast<unsigned long long>(id_));
    std::terminate();
  }
  pool_.give(stack_);
}

void Fiber::begin(void* fiber) {
  Fiber& self = *static_cast<Fiber*>(fiber);
  arrive(self.context_);
  try {
    self.body_();
  } catch (...) {
    self.failure_ = std::current_exception();
  }
  self.body_ = nullptr;  // what it has captured ends here, on this stack
  self.state_ = State::Done;
  leave(self.context_, self.resumer_context());
}

Context& Fiber::resumer_context() const {
  return resumer_ == nullptr ? thread_context() : resumer_->context_;
}

void Fiber::resume() {
  if (state_ == State::Done) throw std::logic_error("the fiber has ended");
  if (state_ == State::Running) throw std::logic_error("the fiber is running");
  state_ = State::Running;
  resumer_ = std::exchange(running_fiber, this);
  switch_to(resumer_context(), context_);
  running_fiber = std::exchange(resumer_, nullptr);
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void Fiber::suspend() {
  if (running_fiber == nullptr) throw std::logic_error("no fiber is running");
  Fiber& self = *running_fiber;
  self.state_ = State::Suspended;
  switch_to(self.context_, self.resumer_context());
}

const Fiber* Fiber::running() { return running_fiber; }

}  // namespace rt
