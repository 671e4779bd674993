// Chapter 07: functions that stop and go on.
//
// New: a fiber, which is a stack of its own and a way to switch to it. What a
// function knows stands in its local variables again, and stays there while
// others run. The price: whoever resumes whom is written by hand, and a fiber
// that sleeps in a system call stops the thread and all fibers with it.

#include <unistd.h>

#include <array>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "chapters/07-fiber/fiber.hpp"
#include "chapters/07-fiber/generator.hpp"
#include "chapters/07-fiber/overflow.hpp"
#include "chapters/07-fiber/stack.hpp"
#include "common/error.hpp"
#include "common/options.hpp"

namespace {

constexpr std::size_t stack_size = 262'144;

// Three fibers, each in the middle of its own loop.
void letters(rt::StackPool& pool) {
  std::vector<std::unique_ptr<rt::Fiber>> fibers;
  for (const char letter : {'a', 'b', 'c'}) {
    fibers.push_back(std::make_unique<rt::Fiber>(pool, [letter] {
      for (int i = 1; i <= 3; ++i) {
        std::printf("%c%d ", letter, i);
        rt::Fiber::suspend();
      }
    }));
  }
  while (!fibers.back()->done()) {
    for (const auto& fiber : fibers) fiber->resume();
  }
  std::printf("\n");
}

// Each prime has a generator of the numbers that no smaller prime divides: a
// chain of stacks, each asleep in the middle of a for loop.
using Numbers = rt::Generator<int>;

std::unique_ptr<Numbers> numbers_from(rt::StackPool& pool, int first) {
  return std::make_unique<Numbers>(pool, [first](const auto& yield) {
    for (int n = first; yield(n); ++n) {
    }
  });
}

std::unique_ptr<Numbers> without_multiples(rt::StackPool& pool,
                                           std::unique_ptr<Numbers> source,
                                           int prime) {
  return std::make_unique<Numbers>(
      pool, [source = std::shared_ptr<Numbers>(std::move(source)),
             prime](const auto& yield) {
        for (;;) {
          const int n = source->next().value();
          if (n % prime != 0 && !yield(n)) return;
        }
      });
}

void primes(rt::StackPool& pool) {
  std::unique_ptr<Numbers> source = numbers_from(pool, 2);
  for (int i = 0; i < 10; ++i) {
    const int prime = source->next().value();
    std::printf("%d ", prime);
    source = without_multiples(pool, std::move(source), prime);
  }
  std::printf("\n");
}

int depth(int n) {
  std::array<volatile char, 1000> frame;
  frame[0] = 1;
  return n == 0 ? 0 : depth(n + 1) + frame[0];
}

void overflow(rt::StackPool& pool) {
  rt::Fiber fiber(pool, [] { std::printf("%d\n", depth(1)); });
  fiber.resume();
}

// The limit: the second fiber has something to do, and the thread sleeps.
void block(rt::StackPool& pool) {
  rt::Fiber reader(pool, [] {
    char byte = 0;
    std::printf("fiber 1 reads from standard input\n");
    const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
    std::printf("fiber 1 has read: %zd\n", n);
  });
  rt::Fiber worker(pool, [] { std::printf("fiber 2 works\n"); });
  reader.resume();
  worker.resume();
}

rt::OverflowReport::Running who_runs() {
  const rt::Fiber* fiber = rt::Fiber::running();
  if (fiber == nullptr) return {"thread", 0, nullptr};
  return {"fiber", fiber->id(), &fiber->stack()};
}

using Show = void (*)(rt::StackPool&);

Show find_show(const std::string& name) {
  const std::map<std::string, Show> shows{{"letters", letters},
                                          {"primes", primes},
                                          {"overflow", overflow},
                                          {"block", block}};
  const auto found = shows.find(name);
  if (found == shows.end()) {
    throw net::UsageError("unexpected argument '" + name + "'");
  }
  return found->second;
}

}  // namespace

int main(int argc, char** argv) {
  const net::Options options(
      "[letters] [primes] [overflow] [block]",
      "Fibers at work: letters and primes by turns; overflow uses a stack up,\n"
      "block sleeps in a system call. Without arguments: letters primes.");
  return net::run_program(
      argc, argv, options, [](std::vector<std::string> names) {
        std::setvbuf(stdout, nullptr, _IOLBF, 0);
        const rt::OverflowReport report(who_runs);
        if (names.empty()) names = {"letters", "primes"};
        std::vector<Show> shows;
        for (const std::string& name : names) {
          shows.push_back(find_show(name));
        }
        for (const Show show : shows) {
          rt::StackPool pool(stack_size);
          show(pool);
        }
        if (std::ferror(stdout) != 0 || std::fflush(stdout) != 0) {
          net::throw_errno("write", "standard output");
        }
        return 0;
      });
}
