// Has no stack before it begins, and none after it has ended.

#pragma once

#include <functional>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <utility>

#include "chapters/07-fiber/fiber.hpp"

// The body calls yield with each value and stops there, on a stack of its own.
template <typename T>
class Generator {
 public:
  class Yield {
   public:
    explicit Yield(Generator& generator) : generator_(generator) {}
    bool operator()(T& value) const { return generator_.stop_at(value); }
    bool operator()(T&& value) const { return generator_.stop_at(value); }

   private:
    Generator& generator_;
  };

  class Iterator {
   public:
    explicit Iterator(Generator& generator) : generator_(generator) {}
    T& operator*() const { return *generator_.value_; }
    Iterator& operator++() {
      generator_.go_on();
      return *this;
    }
    bool operator==(std::default_sentinel_t) const {
      return generator_.value_ == nullptr;
    }

   private:
    Generator& generator_;
  };

  Generator(rt::StackPool& pool, std::function<void(const Yield&)> body)
      : pool_(pool), body_(std::move(body)) {}
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  ~Generator() {
    wanted_ = false;
    if (fiber_) fiber_->resume();
  }

  Iterator begin() {
    if (body_) {
      fiber_.emplace(pool_, [this, body = std::exchange(body_, nullptr)] {
        body(Yield(*this));
      });
      go_on();
    }
    return Iterator(*this);
  }
  std::default_sentinel_t end() const { return {}; }

 private:
  // Up to the next yield or to the end of the body. The old value is gone in
  // any case, also if the body throws.
  void go_on() {
    value_ = nullptr;
    try {
      fiber_->resume();
    } catch (...) {
      fiber_.reset();
      throw;
    }
    if (fiber_->done()) fiber_.reset();
  }

  // Called on the fiber.
  bool stop_at(T& value) {
    // Fiber::suspend stops whoever runs, and that has to be us.
    if (!fiber_ || rt::Fiber::running() != &*fiber_) {
      throw std::logic_error("a yield of another generator's body");
    }
    if (!wanted_) return false;
    value_ = &value;
    rt::Fiber::suspend();
    return wanted_;
  }

  rt::StackPool& pool_;
  std::function<void(const Yield&)> body_;  // before it has begun
  std::optional<rt::Fiber> fiber_;          // until it has ended
  T* value_ = nullptr;  // on the fiber's stack; null while there is none
  bool wanted_ = true;
};
