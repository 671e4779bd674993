#include "common/tools/bench.hpp"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "common/error.hpp"
#include "common/testing/child_process.hpp"
#include "common/tools/measure.hpp"

namespace net {

using namespace std::chrono_literals;

void Bench::add(std::string name, std::function<double()> one_round) {
  subjects_.push_back({std::move(name), std::move(one_round), {}, {}});
}

void Bench::absent(std::string name, std::string why) {
  subjects_.push_back({std::move(name), {}, std::move(why), {}});
}

void Bench::compare(const std::string& name, const std::string& with,
                    double at_most) {
  comparisons_.push_back({find(name).name, find(with).name, at_most});
}

void Bench::run(std::size_t rounds) {
  for (std::size_t round = 0; round < rounds; ++round) {
    for (Subject& subject : subjects_) {
      if (subject.one_round) subject.figures.push_back(subject.one_round());
    }
  }
}

void Bench::print() const {
  std::printf("%-44s %9s %9s\n", title_.c_str(), "least", "median");
  for (const Subject& subject : subjects_) {
    if (subject.figures.empty()) {
      std::printf("  %-42s %s\n", subject.name.c_str(),
                  subject.why_absent.c_str());
      continue;
    }
    const auto& figures = subject.figures;
    std::printf("  %-42s %9.1f %9.1f\n", subject.name.c_str(),
                *std::min_element(figures.begin(), figures.end()),
                median(figures));
  }
  for (const Comparison& comparison : comparisons_) {
    if (!both_here(comparison)) continue;
    std::printf("  %s : %s = %.2f (at most %.2f)\n", comparison.name.c_str(),
                comparison.with.c_str(), ratio(comparison), comparison.at_most);
  }
  std::printf("\n");
  std::fflush(stdout);
}

bool Bench::within() const {
  bool all = true;
  for (const Comparison& comparison : comparisons_) {
    if (!both_here(comparison)) continue;
    if (ratio(comparison) <= comparison.at_most) continue;
    std::printf("%s: %s takes %.2f times as long as %s, more than %.2f\n",
                title_.c_str(), comparison.name.c_str(), ratio(comparison),
                comparison.with.c_str(), comparison.at_most);
    all = false;
  }
  return all;
}

double Bench::figure(const std::string& name) const {
  return median(find(name).figures);
}

const Bench::Subject& Bench::find(const std::string& name) const {
  const auto found = std::find_if(
      subjects_.begin(), subjects_.end(),
      [&](const Subject& subject) { return subject.name == name; });
  if (found == subjects_.end()) throw std::logic_error("no subject " + name);
  return *found;
}

bool Bench::both_here(const Comparison& comparison) const {
  return !find(comparison.name).figures.empty() &&
         !find(comparison.with).figures.empty();
}

double Bench::ratio(const Comparison& comparison) const {
  std::vector<double> ratios = find(comparison.name).figures;
  const std::vector<double>& others = find(comparison.with).figures;
  for (std::size_t i = 0; i < ratios.size(); ++i) ratios[i] /= others[i];
  return median(ratios);
}

std::chrono::nanoseconds own_cpu_time() {
  timespec time{};
  check(::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time), "clock_gettime");
  return std::chrono::seconds(time.tv_sec) +
         std::chrono::nanoseconds(time.tv_nsec);
}

double cost_of_each(std::uint64_t operations,
                    const std::function<void()>& body) {
  const auto start = own_cpu_time();
  body();
  const auto cpu = own_cpu_time() - start;
  return static_cast<double>(cpu.count()) / static_cast<double>(operations);
}

std::size_t own_mappings() {
  std::ifstream maps("/proc/self/maps");
  return static_cast<std::size_t>(
      std::count(std::istreambuf_iterator<char>(maps), {}, '\n'));
}

std::string neighbour(const std::string& name) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  const auto path = self.parent_path() / name;
  return std::filesystem::exists(path) ? path.string() : std::string();
}

double figure_of(const std::vector<std::string>& command) {
  testing::ChildProcess child(command);
  const int status = child.wait(300s);
  std::istringstream words(child.output());
  double figure = 0;
  if (status == 0 && words >> figure) return figure;
  throw std::runtime_error(command[0] + ": status " + std::to_string(status) +
                           ", " + child.output() + child.errors());
}

}  // namespace net
