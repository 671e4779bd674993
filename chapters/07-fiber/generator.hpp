#pragma once

#include <functional>
#include <optional>
#include <stdexcept>
#include <utility>

#include "chapters/07-fiber/fiber.hpp"

namespace rt {

// A function that gives its values one by one, when asked. It calls yield for
// each, and returns when it has no more or when yield has said false: nobody
// wants more. The contract is that of iter.Pull in Go 1.23 (iter/iter.go).
template <typename T>
class Generator {
 public:
  using Yield = std::function<bool(T)>;

  Generator(StackPool& pool, std::function<void(const Yield&)> body)
      : fiber_(pool, [this, body = std::move(body)] {
          body([this](T value) { return yield(std::move(value)); });
        }) {}

  // The body is told to return, and has ended afterwards. If it throws now,
  // std::terminate.
  ~Generator() {
    wanted_ = false;
    if (begun_ && !fiber_.done()) fiber_.resume();
  }

  // Nothing once the body has ended. Throws what the body throws.
  std::optional<T> next() {
    value_.reset();
    begun_ = true;
    if (!fiber_.done()) fiber_.resume();
    return std::move(value_);
  }

 private:
  bool yield(T value) {
    if (!wanted_) throw std::logic_error("yield after it has said false");
    value_ = std::move(value);
    Fiber::suspend();
    return wanted_;
  }

  Fiber fiber_;
  std::optional<T> value_;
  bool begun_ = false;
  bool wanted_ = true;
};

}  // namespace rt
