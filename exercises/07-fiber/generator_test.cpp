// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <generator.hpp>

#include <doctest/doctest.h>

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "chapters/07-fiber/stack.hpp"

namespace {

constexpr std::size_t stack_size = 262'144;

using Words = std::vector<std::string>;

// "1, 2, the end"
std::string text(const Words& words) {
  std::string line;
  for (const std::string& word : words) {
    line += (line.empty() ? "" : ", ") + word;
  }
  return line;
}

// All that a loop over it gets, or the first ten; and what it throws.
std::string values(Generator<int>& generator) {
  Words words;
  try {
    for (const int value : generator) {
      words.push_back(std::to_string(value));
      if (words.size() == 10) break;
    }
  } catch (const std::exception& error) {
    words.push_back(error.what());
  }
  return text(words);
}

// Writes down that it is destroyed.
struct Local {
  explicit Local(Words& log) : log_(log) {}
  Local(const Local&) = delete;
  Local& operator=(const Local&) = delete;
  ~Local() { log_.push_back("destroyed"); }

 private:
  Words& log_;
};

// Values from 1 on, until nobody wants more.
auto counting(Words& log) {
  return [&log](const auto& yield) {
    const Local local(log);
    int n = 1;
    while (yield(n)) ++n;
    log.push_back("told");
  };
}

struct Tree {
  int value;
  std::unique_ptr<Tree> left;
  std::unique_ptr<Tree> right;
};

std::unique_ptr<Tree> leaf(int value) {
  return std::make_unique<Tree>(Tree{value, nullptr, nullptr});
}

std::unique_ptr<Tree> tree(int value, std::unique_ptr<Tree> left,
                           std::unique_ptr<Tree> right) {
  return std::make_unique<Tree>(Tree{value, std::move(left), std::move(right)});
}

// Yields the values from left to right: a generator for the left side, and a
// function that calls itself for the right side.
void walk(rt::StackPool& pool, Tree* root, const Generator<int>::Yield& yield) {
  if (root == nullptr) return;
  Generator<int> left(pool, [&](const Generator<int>::Yield& inner) {
    walk(pool, root->left.get(), inner);
  });
  for (int& value : left) yield(value);
  yield(root->value);
  walk(pool, root->right.get(), yield);
}

// The values of both, as long as both have one: "1 10, 2 20"
std::string side_by_side(Tree& one, Tree& other) {
  rt::StackPool pool(stack_size);
  Words words;
  Generator<int> left(pool,
                      [&](const auto& yield) { walk(pool, &one, yield); });
  Generator<int> right(pool,
                       [&](const auto& yield) { walk(pool, &other, yield); });
  auto l = left.begin();
  auto r = right.begin();
  while (l != left.end() && r != right.end() && words.size() < 10) {
    words.push_back(std::to_string(*l) + ' ' + std::to_string(*r));
    ++l;
    ++r;
  }
  return text(words);
}

}  // namespace

TEST_CASE("a loop gets what the body yields") {
  rt::StackPool pool(stack_size);
  Words words;
  Generator<std::unique_ptr<int>> generator(pool, [](const auto& yield) {
    for (int n = 1; n <= 3; ++n) yield(std::make_unique<int>(n));
  });
  for (std::unique_ptr<int>& value : generator) {
    const std::unique_ptr<int> mine = std::move(value);
    words.push_back(mine == nullptr ? "none" : std::to_string(*mine));
    if (words.size() == 10) break;
  }
  CHECK_MESSAGE(text(words) == "1, 2, 3", "each value comes once, in order");
}

TEST_CASE("a body yields nothing") {
  rt::StackPool pool(stack_size);
  Generator<int> generator(pool, [](const auto&) {});
  CHECK_MESSAGE(values(generator).empty(), "a loop without values is none");
}

TEST_CASE("a body runs when it is asked") {
  rt::StackPool pool(stack_size);
  Words log;
  Generator<int> generator(pool, [&](const auto& yield) {
    for (int n = 1; n <= 3; ++n) {
      log.push_back(std::to_string(n));
      yield(n);
    }
  });
  CHECK_MESSAGE(log.empty(), "nothing has begun before the loop");
  Words seen;
  auto iterator = generator.begin();
  seen.push_back(text(log) + " at " + std::to_string(*iterator));
  ++iterator;
  seen.push_back(text(log) + " at " + std::to_string(*iterator));
  CHECK_MESSAGE(text(seen) == "1 at 1, 1, 2 at 2",
                "no value is made before it is asked for");
  values(generator);  // to the end: to leave it early is another test case
}

TEST_CASE("a loop is left and another one begins") {
  rt::StackPool pool(stack_size);
  Generator<int> generator(pool, [](const auto& yield) {
    for (int n = 1; n <= 4; ++n) yield(n);
  });
  for (const int value : generator) {
    if (value == 2) break;
  }
  CHECK_MESSAGE(values(generator) == "2, 3, 4",
                "the second loop begins where the first has stopped");
}

TEST_CASE("the value is the body's own") {
  rt::StackPool pool(stack_size);
  int last = 0;
  Generator<int> generator(pool, [&](const auto& yield) {
    int n = 1;
    yield(n);
    yield(n);
    last = n;
  });
  for (int& value : generator) value *= 10;
  CHECK_MESSAGE(last == 100, "the body sees what the loop does to its value");
}

TEST_CASE("a loop is left early") {
  Words log;
  {
    rt::StackPool pool(stack_size);
    Generator<int> generator(pool, counting(log));
    for (const int value : generator) {
      if (value == 3) break;
    }
  }
  CHECK_MESSAGE(!log.empty(), "the body ends before the generator does");
  CHECK_MESSAGE((log.empty() || log.front() == "told"),
                "yield says that nobody wants more");
}

TEST_CASE("a body asks again") {
  Words log;
  {
    rt::StackPool pool(stack_size);
    Generator<int> generator(pool, [&](const auto& yield) {
      for (int n = 1; n <= 4; ++n) log.push_back(yield(n) ? "yes" : "no");
    });
    for (const int value : generator) {
      if (value == 2) break;
    }
  }
  CHECK_MESSAGE(text(log) == "yes, no, no, no",
                "yield says it as often as it is asked");
}

TEST_CASE("a generator is not used") {
  Words log;
  {
    rt::StackPool pool(stack_size);
    const Generator<int> generator(pool, counting(log));
  }
  CHECK_MESSAGE(log.empty(), "a body that nobody asks never begins");
}

TEST_CASE("a body throws") {
  rt::StackPool pool(stack_size);
  Generator<int> generator(pool, [](const auto& yield) {
    yield(1);
    throw std::runtime_error("no more");
  });
  CHECK_MESSAGE(values(generator) == "1, no more",
                "an exception of the body reaches the loop");
  CHECK_MESSAGE(generator.begin() == generator.end(),
                "who has thrown has no more values");
}

TEST_CASE("a loop throws") {
  Words log;
  try {
    rt::StackPool pool(stack_size);
    Generator<int> generator(pool, counting(log));
    for (const int value : generator) {
      if (value == 2) throw std::runtime_error("enough");
    }
  } catch (const std::runtime_error& error) {
    log.push_back(error.what());
  }
  CHECK_MESSAGE(text(log) == "told, destroyed, enough",
                "the body ends while the exception is on its way");
}

TEST_CASE("two trees are walked in turns") {
  const auto one = tree(4, tree(2, leaf(1), leaf(3)), leaf(5));
  const auto other = tree(20, leaf(10), tree(40, leaf(30), leaf(50)));
  CHECK_MESSAGE(side_by_side(*one, *other) == "1 10, 2 20, 3 30, 4 40, 5 50",
                "each generator has a place of its own");
}

TEST_CASE("a body calls the yield of another") {
  rt::StackPool pool(stack_size);
  bool is_refused = false;
  Generator<int> outer(pool, [&](const Generator<int>::Yield& yield) {
    Generator<int> inner(pool, [&](const auto&) {
      try {
        yield(1);
      } catch (const std::logic_error&) {
        is_refused = true;
      }
    });
    inner.begin();
  });
  outer.begin();
  CHECK_MESSAGE(is_refused, "who is not the body cannot yield for it");
}
