// The end of the fiber is the end of the values.

#pragma once

#include <functional>
#include <iterator>
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
      return generator_.fiber_.done();
    }

   private:
    Generator& generator_;
  };

  Generator(rt::StackPool& pool, std::function<void(const Yield&)> body)
      : fiber_(pool, [this, body = std::move(body)] { body(Yield(*this)); }) {}
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  ~Generator() {
    wanted_ = false;
    if (begun_ && !fiber_.done()) fiber_.resume();
  }

  Iterator begin() {
    if (!begun_) go_on();
    return Iterator(*this);
  }
  std::default_sentinel_t end() const { return {}; }

 private:
  // Up to the next yield or to the end of the body.
  void go_on() {
    begun_ = true;
    fiber_.resume();
  }

  // Called on the fiber.
  bool stop_at(T& value) {
    // Fiber::suspend stops whoever runs, and that has to be us.
    if (rt::Fiber::running() != &fiber_) {
      throw std::logic_error("a yield of another generator's body");
    }
    if (!wanted_) return false;
    value_ = &value;
    rt::Fiber::suspend();
    return wanted_;
  }

  rt::Fiber fiber_;
  T* value_ = nullptr;  // on the fiber's stack, until it goes on
  bool begun_ = false;
  bool wanted_ = true;
};
