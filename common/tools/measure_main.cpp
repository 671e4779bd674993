// measure: compares server programs, in rounds that take turns.

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/options.hpp"
#include "common/testing/process.hpp"
#include "common/tools/measure.hpp"

namespace {

// Idle clients that every program must be able to hold, select's too.
constexpr std::size_t few = 100;
constexpr std::size_t many = 900;

struct Settings {
  std::uint32_t rounds = 11;
  std::uint32_t connections = 50;
  std::uint32_t size = 64;
  std::uint64_t requests = 20000;
  std::uint32_t idle = 0;     // clients beside the busy ones
  std::uint32_t at_most = 0;  // per cent
};

struct Subject {
  explicit Subject(std::string program) : path(std::move(program)) {}

  std::string path;
  std::string failure;        // why it is out, else empty
  std::vector<double> cpu;    // of each round, nanoseconds a request
  std::vector<double> ratio;  // of each round, to the first program's
  std::vector<double> user;   // of each round, nanoseconds a request
  std::vector<double> switches;
  std::vector<double> idle_cpu;    // the same beside idle clients
  std::vector<double> idle_ratio;  // of each round, to that without them
  std::string calls = "-";         // a request
  std::string bytes = "-";         // an idle client
};

void show(const std::string& text) {
  if (::isatty(STDERR_FILENO) != 1) return;
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
}

std::string number(double value, int decimals) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

// Whoever fails is out; the others go on.
void attempt(Subject& subject, const char* what,
             const std::function<void(const std::string& path)>& measure) {
  if (!subject.failure.empty()) return;
  show(net::program_name(subject.path) + ": " + what);
  try {
    measure(subject.path);
  } catch (const net::ServerFailed& failed) {
    subject.failure = failed.what();
  }
  show("");
}

// With idle clients and without, in turn: who goes first changes, so that a
// machine that grows slower meanwhile favours neither.
void play_round(Subject& subject, const Subject& first,
                const Settings& settings, std::size_t round) {
  const std::string what = "round " + std::to_string(round + 1) + " of " +
                           std::to_string(settings.rounds);
  attempt(subject, what.c_str(), [&](const std::string& path) {
    const auto measure = [&](std::size_t idle) {
      return net::cost_under_load(path, settings.connections, settings.size,
                                  settings.requests, idle);
    };
    const bool compared = settings.idle > 0;
    double beside = 0;
    if (compared && round % 2 == 1) beside = measure(settings.idle).cpu;
    const net::LoadCost cost = measure(0);
    if (compared && round % 2 == 0) beside = measure(settings.idle).cpu;
    subject.cpu.push_back(cost.cpu);
    subject.user.push_back(cost.user * cost.cpu);
    subject.switches.push_back(cost.switches);
    if (compared) {
      subject.idle_cpu.push_back(beside);
      subject.idle_ratio.push_back(beside / cost.cpu);
    }
    if (first.cpu.size() <= round) return;
    subject.ratio.push_back(cost.cpu / first.cpu[round]);
  });
}

void play_rounds(std::vector<Subject>& subjects, const Settings& settings) {
  for (std::size_t round = 0; round < settings.rounds; ++round) {
    for (Subject& subject : subjects) {
      play_round(subject, subjects[0], settings, round);
    }
  }
}

void look_once(Subject& subject, const Settings& settings) {
  attempt(subject, "system calls", [&](const std::string& path) {
    const net::RequestCalls calls =
        net::calls_of_requests(path, settings.connections, 20);
    if (calls.refused.empty()) {
      subject.calls = number(calls.each(), 2);
    } else {
      std::fprintf(stderr, "measure: system calls are not counted here: %s\n",
                   calls.refused.c_str());
    }
  });
  if (settings.connections == 1) return;  // it may serve one at a time
  attempt(subject, "memory", [&](const std::string& path) {
    subject.bytes = number(net::bytes_of_idle(path, few, many), 0);
  });
}

// Not the median: in a short round user time is none or one tick.
double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) /
         static_cast<double>(values.size());
}

double least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

void print_table(const std::vector<Subject>& subjects) {
  std::printf("%-19s %9s %8s %8s %8s %8s %9s %9s\n", "", "calls", "CPU us", "",
              "", "of it", "switches", "bytes");
  std::printf("%-19s %9s %8s %8s %8s %8s %9s %9s\n", "program", "a request",
              "least", "median", "ratio", "user", "a request", "idle");
  for (const Subject& subject : subjects) {
    const std::string name = net::program_name(subject.path);
    if (!subject.failure.empty()) {
      std::printf("%-19s failed\n", name.c_str());
      continue;
    }
    const double ratio = subject.ratio.empty() ? 0 : net::median(subject.ratio);
    std::printf("%-19s %9s %8.2f %8.2f %8s %8.2f %9.2f %9s\n", name.c_str(),
                subject.calls.c_str(), least(subject.cpu) / 1000,
                net::median(subject.cpu) / 1000,
                ratio > 0 ? number(ratio, 3).c_str() : "-",
                mean(subject.user) / 1000, net::median(subject.switches),
                subject.bytes.c_str());
  }
  for (const Subject& subject : subjects) {
    if (subject.failure.empty()) continue;
    std::fprintf(stderr, "measure: %s", subject.failure.c_str());
  }
}

// The columns of CPU stand under those of the table before.
void print_idle_table(const std::vector<Subject>& subjects,
                      const Settings& settings) {
  std::printf("\nwith %-24s %8s %8s %8s\n",
              (net::grouped(settings.idle) + " idle:").c_str(), "least",
              "median", "ratio");
  for (const Subject& subject : subjects) {
    if (!subject.failure.empty()) continue;
    std::printf(
        "%-29s %8.2f %8.2f %8.3f\n", net::program_name(subject.path).c_str(),
        least(subject.idle_cpu) / 1000, net::median(subject.idle_cpu) / 1000,
        net::median(subject.idle_ratio));
  }
}

// Says who is dearer than allowed; true if nobody is.
bool within(const std::vector<Subject>& subjects, const Settings& settings) {
  const double limit = settings.at_most / 100.0;
  const std::string first = net::program_name(subjects[0].path);
  const std::string of =
      settings.idle > 0 ? "without idle clients" : "of " + first;
  bool all = true;
  for (const Subject& subject : subjects) {
    const std::vector<double>& ratios =
        settings.idle > 0 ? subject.idle_ratio : subject.ratio;
    if (settings.at_most == 0 || ratios.empty()) continue;
    const double ratio = net::median(ratios);
    if (ratio <= limit) continue;
    std::printf("%s takes %.3f times the CPU %s, more than %.2f\n",
                net::program_name(subject.path).c_str(), ratio, of.c_str(),
                limit);
    all = false;
  }
  return all;
}

bool compare(const std::vector<std::string>& programs, const Settings& settings,
             bool& dearer) {
  std::vector<Subject> subjects(programs.begin(), programs.end());
  for (Subject& subject : subjects) look_once(subject, settings);
  play_rounds(subjects, settings);
  print_table(subjects);
  if (settings.idle > 0) print_idle_table(subjects, settings);
  dearer = !within(subjects, settings);
  return std::all_of(subjects.begin(), subjects.end(),
                     [](const Subject& s) { return s.failure.empty(); });
}

// Both this process and the server need a descriptor for each client.
void fit_to_descriptors(Settings& settings) {
  constexpr std::uint64_t own = 100;
  const std::uint64_t taken = own + settings.connections;
  const std::uint64_t limit = testing::raise_descriptor_limit();
  if (settings.idle == 0 || limit >= taken + settings.idle) return;
  if (limit <= taken)
    throw std::runtime_error("too few descriptors for --idle");
  settings.idle = static_cast<std::uint32_t>(limit - taken);
  std::printf("The limit is %llu descriptors here: only %s idle clients.\n",
              static_cast<unsigned long long>(limit),
              net::grouped(settings.idle).c_str());
}

void explain(const Settings& settings) {
  std::printf(
      "%u rounds, the programs in turn: %llu requests of %u bytes from %u\n"
      "clients. CPU is that of the server, on a core of its own if there are\n"
      "two; ratio is the median, over the rounds, of its CPU to that of the\n"
      "first program in the same round. User is the mean, as the kernel sees\n"
      "it at each tick: a guess for less than some seconds of CPU.\n",
      settings.rounds, static_cast<unsigned long long>(settings.requests),
      settings.size, settings.connections);
  if (settings.idle > 0) {
    std::printf(
        "Then the same with %s clients beside them that have echoed once and\n"
        "are silent, in turn with it; ratio is that to the same round "
        "without.\n",
        net::grouped(settings.idle).c_str());
  }
  std::printf("\n");
  std::fflush(stdout);
}

int run(const std::vector<std::string>& programs, Settings& settings) {
  if (programs.empty()) throw net::UsageError("no program");
  fit_to_descriptors(settings);
  explain(settings);
  bool dearer = false;
  if (!compare(programs, settings, dearer)) return 1;
  if (!dearer) return 0;
  std::printf("measured once more, in case the machine was busy:\n\n");
  if (!compare(programs, settings, dearer)) return 1;
  return dearer ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  net::Options options(
      "[--rounds N] [--connections N] [--size BYTES] ... PROGRAM...",
      "Compares echo servers, each a program that takes '--port 0' and prints\n"
      "'listening on ADDRESS'. With --idle, also each with itself: so many\n"
      "silent clients beside it, and none. Exits with status 1 if one fails, "
      "or\n"
      "if the ratio, with --idle that to none, is over --at-most twice in a "
      "row.");
  options.number("--rounds", "rounds", 1, 10000, settings.rounds);
  options.number("--connections", "clients that ask at the same time", 1, 10000,
                 settings.connections);
  options.number("--size", "bytes of a request", 1, 1U << 24, settings.size);
  options.number("--requests", "requests of a round", 1, 1'000'000'000,
                 settings.requests);
  options.number("--idle", "silent clients to compare with none", 0, 1'000'000,
                 settings.idle);
  options.number("--at-most", "allowed ratio, in per cent; 0: any", 0, 100000,
                 settings.at_most);
  return net::run_program(argc, argv, options,
                          [&](const std::vector<std::string>& programs) {
                            return run(programs, settings);
                          });
}
