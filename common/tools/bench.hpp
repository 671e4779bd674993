#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace net {

// Measures small things beside each other: in each round everyone has a turn,
// so a machine that grows slower meanwhile favours nobody, and ratios are those
// within a round.
class Bench {
 public:
  // title: what the figures are of. A figure is nanoseconds an operation.
  explicit Bench(std::string title) : title_(std::move(title)) {}

  // one_round returns the figure.
  void add(std::string name, std::function<double()> one_round);

  // Not here, and why.
  void absent(std::string name, std::string why);

  // From now on the table has the ratio of the one to the other, and within
  // wants it to be at most so much. Nothing if one of them is absent.
  void compare(const std::string& name, const std::string& with,
               double at_most);

  void run(std::size_t rounds);
  void print() const;

  // Says which ratio is too high; true if none is.
  bool within() const;

  // The median of its figures. Of somebody who has run.
  double figure(const std::string& name) const;

 private:
  struct Subject {
    std::string name;
    std::function<double()> one_round;
    std::string why_absent;
    std::vector<double> figures;
  };
  struct Comparison {
    std::string name;
    std::string with;
    double at_most;
  };

  const Subject& find(const std::string& name) const;
  bool both_here(const Comparison& comparison) const;
  double ratio(const Comparison& comparison) const;

  std::string title_;
  std::vector<Subject> subjects_;
  std::vector<Comparison> comparisons_;
};

// User and system time of this process so far, all its threads, to the
// nanosecond: beside a busy neighbour it says more than the clock on the wall.
std::chrono::nanoseconds own_cpu_time();

// What each of so many operations of the body costs, in nanoseconds.
double cost_of_each(std::uint64_t operations,
                    const std::function<void()>& body);

// How many mappings this process has (proc(5), maps).
std::size_t own_mappings();

// The program of that name in the folder of this one; empty if there is none.
std::string neighbour(const std::string& name);

// A figure that a program prints as its only line. Throws std::runtime_error
// if it fails or prints something else.
double figure_of(const std::vector<std::string>& command);

}  // namespace net
