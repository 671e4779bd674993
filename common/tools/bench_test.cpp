#include <doctest/doctest.h>
#include <sys/mman.h>

#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <utility>
#include <vector>

#include "common/tools/bench.hpp"

namespace {

// A subject whose figures are known.
auto figures(std::vector<double> values) {
  return [values = std::move(values), next = std::size_t{0}]() mutable {
    return values.at(next++);
  };
}

net::Bench two(std::vector<double> ours, std::vector<double> theirs,
               double at_most) {
  net::Bench bench("a test");
  const std::size_t rounds = ours.size();
  bench.add("ours", figures(std::move(ours)));
  bench.add("theirs", figures(std::move(theirs)));
  bench.compare("ours", "theirs", at_most);
  bench.run(rounds);
  return bench;
}

}  // namespace

TEST_CASE("everyone has one turn in each round") {
  int turns = 0;
  net::Bench bench("a test");
  bench.add("first", [&] { return turns++; });
  bench.add("second", [&] { return turns++; });
  bench.run(3);
  CHECK(turns == 6);
  CHECK(bench.figure("first") == 2);
  CHECK(bench.figure("second") == 3);
}

TEST_CASE("a ratio is the median of those within a round") {
  // The machine is ten times slower in the second round: 2, 2, 2.
  const net::Bench bench = two({2, 20, 4}, {1, 10, 2}, 2.0);
  CHECK(bench.within());
  CHECK_FALSE(two({2, 20, 4}, {1, 10, 2}, 1.9).within());
  // One round that was disturbed does not count: 1, 9, 1.
  CHECK(two({1, 9, 1}, {1, 1, 1}, 1.1).within());
}

TEST_CASE("whoever is absent is compared with nobody") {
  net::Bench bench("a test");
  bench.add("ours", figures({1}));
  bench.absent("theirs", "it is not here");
  bench.compare("ours", "theirs", 0.1);
  bench.run(1);
  CHECK(bench.within());
  CHECK_THROWS_AS(bench.compare("ours", "nobody", 1), std::logic_error);
}

TEST_CASE("the cost of an operation is the time that this process computes") {
  int rounds = 0;
  const double cost = net::cost_of_each(10, [&] {
    const auto start = net::own_cpu_time();
    while (net::own_cpu_time() - start < std::chrono::milliseconds(1)) ++rounds;
  });
  CHECK(rounds > 0);
  CHECK(cost >= 100'000);
}

TEST_CASE("a mapping that falls into three counts as three") {
  constexpr std::size_t size = 1 << 16;
  void* memory =
      ::mmap(nullptr, 3 * size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  const std::size_t before = net::own_mappings();
  CHECK(::mprotect(static_cast<std::byte*>(memory) + size, size, PROT_NONE) ==
        0);
  CHECK(net::own_mappings() == before + 2);
  ::munmap(memory, 3 * size);
}

TEST_CASE("a program's figure is its only line, and a failure is none") {
  CHECK(net::figure_of({"/bin/echo", "2.5"}) == 2.5);
  CHECK_THROWS_WITH_AS(net::figure_of({"/bin/false"}), "/bin/false: status 1, ",
                       std::runtime_error);
  CHECK_THROWS_AS(net::figure_of({"/bin/echo", "none"}), std::runtime_error);
}

TEST_CASE("a neighbour is a program in the same folder, or empty") {
  CHECK(net::neighbour("bench-test").ends_with("/bench-test"));
  CHECK(net::neighbour("no-such-program").empty());
}
