// bench_scheduler: what goroutines cost, ours and, where Go is, those of Go.

#include <malloc.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "chapters/07-fiber/fiber.hpp"
#include "chapters/07-fiber/stack.hpp"
#include "common/options.hpp"
#include "common/testing/process.hpp"
#include "common/tools/bench.hpp"
#include "common/tools/measure.hpp"
#include "rt/go.hpp"
#include "rt/time.hpp"

namespace {

constexpr std::uint64_t operations = 500'000;  // of a round

struct Settings {
  std::uint32_t rounds = 11;
  std::uint32_t parked = 100'000;
  bool check = false;
};

// What each of so many operations costs, if the body does them in a goroutine.
double cost_in_run(std::uint64_t all, const std::function<void()>& body) {
  double cost = 0;
  rt::run([&] { cost = net::cost_of_each(all, body); });
  return cost;
}

// Without the first turn of each, in which its stack gets its memory.
double yields(std::uint64_t goroutines) {
  const std::uint64_t times = operations / goroutines;
  const auto yield_often = [times] {
    for (std::uint64_t i = 0; i <= times; ++i) rt::yield();
  };
  double cost = 0;
  rt::run([&] {
    std::vector<rt::Handle> all;
    for (std::uint64_t i = 0; i < goroutines; ++i) {
      all.push_back(rt::go(yield_often));
    }
    rt::yield();
    cost = net::cost_of_each(goroutines * times, [&all] {
      for (const rt::Handle& handle : all) handle.join();
    });
  });
  return cost;
}

// So many begin, and then all of them run and end.
void begin_and_end(std::uint64_t together) {
  std::uint64_t ended = 0;
  for (std::uint64_t i = 0; i < together; ++i) {
    rt::go([&ended] { ++ended; });
  }
  while (ended < together) rt::yield();
}

double spawns(std::uint64_t together) {
  return cost_in_run(operations, [together] {
    for (std::uint64_t i = 0; i < operations; i += together) {
      begin_and_end(together);
    }
  });
}

double in_go(const std::string& what, std::uint64_t goroutines) {
  return net::figure_of({net::neighbour("go_bench"), what,
                         std::to_string(goroutines),
                         std::to_string(operations / goroutines)});
}

std::string bytes(double number) {
  return net::grouped(static_cast<std::size_t>(number > 0 ? number : 0));
}

// What this process has, and by how much that grows.
class Growth {
 public:
  // Memory that malloc kept would be filled without growth.
  Growth() {
    ::malloc_trim(0);
    mappings_ = net::own_mappings();
    resident_ = testing::resident_bytes(::getpid());
  }

  std::size_t mappings() const { return net::own_mappings() - mappings_; }
  double resident() const {
    return static_cast<double>(testing::resident_bytes(::getpid())) -
           static_cast<double>(resident_);
  }

 private:
  std::size_t mappings_ = 0;
  std::uint64_t resident_ = 0;
};

bool one_after_the_other() {
  constexpr std::uint64_t all = 1'000'000;
  bool flat = false;
  rt::run([&] {
    rt::go([] {}).join();
    const Growth growth;
    for (std::uint64_t i = 0; i < all; ++i) rt::go([] {}).join();
    flat = growth.mappings() == 0 && growth.resident() < 65'536;
    std::printf(
        "%s goroutines, one after the other, have left %s bytes and "
        "%zu mappings\n",
        net::grouped(all).c_str(), bytes(growth.resident()).c_str(),
        growth.mappings());
  });
  return flat;
}

bool parked_goroutines(std::size_t wanted) {
  bool within = false;
  rt::run([&] {
    const Growth growth;
    std::size_t made = 0;
    std::string failure;
    try {
      for (; made < wanted; ++made) rt::go([] { rt::sleep_until(rt::never); });
    } catch (const std::system_error& error) {
      failure = std::string(": then ") + error.what();
    }
    rt::yield();
    const double each = growth.resident() / static_cast<double>(made);
    std::printf("%s parked goroutines: %s bytes each, %zu mappings%s\n",
                net::grouped(made).c_str(), bytes(each).c_str(),
                growth.mappings(), failure.c_str());
    within = made == wanted && each <= 4.5 * 1024 && growth.mappings() < 100;
  });
  return within;
}

void parked_in_go(std::size_t wanted) {
  const std::string go = net::neighbour("go_bench");
  if (go.empty()) return;
  const double each = net::figure_of({go, "parked", std::to_string(wanted)});
  std::printf("%s parked goroutines of Go: %s bytes each\n",
              net::grouped(wanted).c_str(), bytes(each).c_str());
}

// As many as there can be, at most so many, with this kind of guard.
void suspended_fibers(rt::Guard guard, const char* kind, std::size_t most) {
  const Growth growth;
  rt::StackPool pool(262'144, guard);
  std::vector<std::unique_ptr<rt::Fiber>> all;
  std::string failure;
  try {
    while (all.size() < most) {
      all.push_back(
          std::make_unique<rt::Fiber>(pool, [] { rt::Fiber::suspend(); }));
      all.back()->resume();
    }
  } catch (const std::system_error& error) {
    failure = std::string(": then ") + error.what();
  }
  const auto count = static_cast<double>(all.size());
  std::printf(
      "%s suspended fibers, guards by %s: %s bytes each, %s mappings%s"
      "\n",
      net::grouped(all.size()).c_str(), kind,
      bytes(growth.resident() / count).c_str(),
      net::grouped(growth.mappings()).c_str(), failure.c_str());
  for (const auto& fiber : all) fiber->resume();
}

net::Bench compared(std::size_t rounds) {
  struct Row {
    const char* ours;
    const char* theirs;
    double (*measure)(std::uint64_t goroutines);
    const char* what;
    std::uint64_t goroutines;
  };
  const std::vector<Row> rows{
      {"yield, between 2", "Go, between 2", yields, "yield", 2},
      {"yield, among 1,000", "Go, among 1,000", yields, "yield", 1000},
      {"spawn and finish, one at a time", "Go, one at a time", spawns, "spawn",
       1},
      {"spawn and finish, a hundred together", "Go, a hundred together", spawns,
       "spawn", 100}};
  net::Bench bench("one operation, in nanoseconds of CPU");
  for (const Row& row : rows) {
    bench.add(row.ours, [row] { return row.measure(row.goroutines); });
    if (net::neighbour("go_bench").empty()) {
      bench.absent(row.theirs, "no program go_bench beside this one");
    } else {
      bench.add(row.theirs, [row] { return in_go(row.what, row.goroutines); });
    }
    bench.compare(row.ours, row.theirs, 0.25);
  }
  bench.run(rounds);
  bench.print();
  return bench;
}

bool memory_is_within(std::size_t parked) {
  const bool flat = one_after_the_other();
  const bool small = parked_goroutines(parked);
  parked_in_go(parked);
  if (rt::best_guard() == rt::Guard::Install) {
    suspended_fibers(rt::Guard::Install, "MADV_GUARD_INSTALL", 40'000);
  }
  suspended_fibers(rt::Guard::Protect, "mprotect", 40'000);
  return flat && (small || rt::best_guard() == rt::Guard::Protect);
}

int run(const Settings& settings) {
  bool within = compared(settings.rounds).within();
  const bool memory = memory_is_within(settings.parked);
  if (!settings.check) return 0;
  if (!within) {
    std::printf("measured once more, in case the machine was busy:\n\n");
    within = compared(settings.rounds).within();
  }
  return within && memory ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  net::Options options(
      "[--rounds N] [--parked N] [--check]",
      "Measures goroutines, beside those of Go on one P if go_bench is here.\n"
      "With --check exits with status 1 if a ratio is too high twice in a row\n"
      "or memory is not what is promised.");
  options.number("--rounds", "rounds", 1, 10000, settings.rounds);
  options.number("--parked", "goroutines that wait", 1, 10'000'000,
                 settings.parked);
  options.flag("--check", "look at ratios and memory", settings.check);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& arguments) {
        if (!arguments.empty()) {
          throw net::UsageError("unexpected argument '" + arguments[0] + "'");
        }
        return run(settings);
      });
}
