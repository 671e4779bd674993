// Write: a function whose values a range-for asks for one by one.

#pragma once

#include <functional>
#include <iterator>

#include "chapters/07-fiber/fiber.hpp"
#include "common/testing/todo.hpp"

// The body calls yield with each value and stops there, on a stack of its own:
//
//   Generator<int> numbers(pool, [](const auto& yield) {
//     for (int n = 1; yield(n); ++n) {}
//   });
//   for (int& n : numbers) if (n == 100) break;
//
// - The body begins with the first begin(), and runs up to its first value.
//   Only ++ lets it go on, up to the next one: begin() once more is where the
//   last loop has stopped.
// - The loop holds the body's own value, not a copy: it stays where it is, as
//   its stack does, until the body goes on.
// - An exception that leaves the body leaves begin() or ++, and then it is
// over.
// - A body that has begun ends before the generator does: yield says false,
//   nobody wants more, and says it again as often as it is asked. A body that
//   has not begun never does. The body throws nothing then.
// - Generators may be used in turns, and within the bodies of others. To call
//   the yield of another's body is std::logic_error.
template <typename T>
class Generator {
 public:
  class Yield {
   public:
    bool operator()(T& value) const { TODO("stop; is another value wanted?"); }
    bool operator()(T&& value) const { return (*this)(value); }
  };

  class Iterator {
   public:
    T& operator*() const { TODO("the value at which the body has stopped"); }
    Iterator& operator++() { TODO("let the body go on"); }
    bool operator==(std::default_sentinel_t) const { TODO("is it over?"); }
  };

  Generator(rt::StackPool& pool, std::function<void(const Yield&)> body) {
    TODO("a fiber that calls the body");
  }
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;
  ~Generator() {}  // tell a body that has begun, so that it ends

  Iterator begin() { TODO("let the body begin, if it has not"); }
  std::default_sentinel_t end() const { return {}; }
};
