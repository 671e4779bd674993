// measure: compares server programs, in rounds that take turns.

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
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
  std::uint32_t at_most = 0;  // per cent of the first program's CPU
};

struct Subject {
  explicit Subject(std::string program) : path(std::move(program)) {}

  std::string path;
  std::string failure;        // why it is out, else empty
  std::vector<double> cpu;    // of each round, nanoseconds a request
  std::vector<double> ratio;  // of each round, to the first program's
  std::vector<double> switches;
  std::string calls = "-";  // a request
  std::string bytes = "-";  // an idle client
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

void play_round(Subject& subject, const Subject& first,
                const Settings& settings, std::size_t round) {
  const std::string what = "round " + std::to_string(round + 1) + " of " +
                           std::to_string(settings.rounds);
  attempt(subject, what.c_str(), [&](const std::string& path) {
    const net::LoadCost cost = net::cost_under_load(
        path, settings.connections, settings.size, settings.requests);
    subject.cpu.push_back(cost.cpu);
    subject.switches.push_back(cost.switches);
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

void print_table(const std::vector<Subject>& subjects) {
  std::printf("%-19s %9s %8s %8s %8s %9s %10s\n", "", "calls", "CPU us", "", "",
              "switches", "bytes");
  std::printf("%-19s %9s %8s %8s %8s %9s %10s\n", "program", "a request",
              "least", "median", "ratio", "a request", "idle");
  for (const Subject& subject : subjects) {
    const std::string name = net::program_name(subject.path);
    if (!subject.failure.empty()) {
      std::printf("%-19s failed\n", name.c_str());
      continue;
    }
    const double least =
        *std::min_element(subject.cpu.begin(), subject.cpu.end());
    const double ratio = subject.ratio.empty() ? 0 : net::median(subject.ratio);
    std::printf("%-19s %9s %8.2f %8.2f %8s %9.2f %10s\n", name.c_str(),
                subject.calls.c_str(), least / 1000,
                net::median(subject.cpu) / 1000,
                ratio > 0 ? number(ratio, 3).c_str() : "-",
                net::median(subject.switches), subject.bytes.c_str());
  }
  for (const Subject& subject : subjects) {
    if (subject.failure.empty()) continue;
    std::fprintf(stderr, "measure: %s", subject.failure.c_str());
  }
}

// Says who is dearer than allowed; true if nobody is.
bool within(const std::vector<Subject>& subjects, std::uint32_t at_most) {
  bool all = true;
  for (const Subject& subject : subjects) {
    const double limit = at_most / 100.0;
    if (at_most == 0 || subject.ratio.empty()) continue;
    const double ratio = net::median(subject.ratio);
    if (ratio <= limit) continue;
    std::printf("%s takes %.3f times the CPU of %s, more than %.2f\n",
                net::program_name(subject.path).c_str(), ratio,
                net::program_name(subjects[0].path).c_str(), limit);
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
  dearer = !within(subjects, settings.at_most);
  return std::all_of(subjects.begin(), subjects.end(),
                     [](const Subject& s) { return s.failure.empty(); });
}

int run(const std::vector<std::string>& programs, const Settings& settings) {
  if (programs.empty()) throw net::UsageError("no program");
  testing::raise_descriptor_limit();
  std::printf(
      "%u rounds, the programs in turn: %llu requests of %u bytes from %u\n"
      "clients. CPU is that of the server; ratio is the median, over the\n"
      "rounds, of its CPU to that of the first program in the same round.\n\n",
      settings.rounds, static_cast<unsigned long long>(settings.requests),
      settings.size, settings.connections);
  std::fflush(stdout);
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
      "'listening on ADDRESS'. Exits with status 1 if one fails, or is dearer\n"
      "than --at-most allows twice in a row.");
  options.number("--rounds", "rounds", 1, 10000, settings.rounds);
  options.number("--connections", "clients that ask at the same time", 1, 10000,
                 settings.connections);
  options.number("--size", "bytes of a request", 1, 1U << 24, settings.size);
  options.number("--requests", "requests of a round", 1, 1'000'000'000,
                 settings.requests);
  options.number("--at-most",
                 "allowed ratio to the first program, in per cent; 0: any", 0,
                 100000, settings.at_most);
  return net::run_program(argc, argv, options,
                          [&](const std::vector<std::string>& programs) {
                            return run(programs, settings);
                          });
}
