// load: drives an echo server with many connections and checks every byte.

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "common/options.hpp"
#include "common/tools/load.hpp"

namespace {

using net::LoadErrors;
using net::LoadReport;

constexpr std::chrono::seconds usual_time{5};

double microseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

// Each kind of error under its name, in the order of LoadErrors.
std::vector<std::pair<const char*, std::uint32_t>> kinds(const LoadErrors& e) {
  return {{"refused", e.refused},
          {"reset", e.reset},
          {"early_end", e.early_end},
          {"wrong_byte", e.wrong_byte},
          {"timed_out", e.timed_out}};
}

void print_lines(const LoadReport& report, std::uint32_t connections) {
  std::printf("requests     %llu in %.2f s, %.0f a second\n",
              static_cast<unsigned long long>(report.requests),
              report.time.count(), report.rate());
  std::printf("connections  %u of %u served\n", report.served, connections);
  std::printf("latency      p50 %.1f us, p99 %.1f us, most %.1f us\n",
              microseconds(report.latency.quantile(0.5)),
              microseconds(report.latency.quantile(0.99)),
              microseconds(report.latency.most()));
  std::string errors;
  for (const auto& [name, count] : kinds(report.errors)) {
    if (count == 0) continue;
    errors += ", " + std::to_string(count) + ' ' + name;
  }
  std::printf("errors       %s\n",
              errors.empty() ? "none" : errors.substr(2).c_str());
  if (!errors.empty()) {
    std::printf("             %s\n", report.first_error.c_str());
  }
}

void print_json(const LoadReport& report) {
  std::printf(
      "{\"requests\":%llu,\"seconds\":%.6f,\"rate\":%.1f,\"served\":%u,"
      "\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f",
      static_cast<unsigned long long>(report.requests), report.time.count(),
      report.rate(), report.served, microseconds(report.latency.quantile(0.5)),
      microseconds(report.latency.quantile(0.99)),
      microseconds(report.latency.most()));
  for (const auto& [name, count] : kinds(report.errors)) {
    std::printf(",\"%s\":%u", name, count);
  }
  std::printf("}\n");
}

void show_progress(const LoadReport& report) {
  if (report.time < std::chrono::seconds(2)) return;
  std::fprintf(stderr, "\r%.0f s: %llu requests, %.0f a second, %u errors ",
               report.time.count(),
               static_cast<unsigned long long>(report.requests), report.rate(),
               report.errors.all());
}

// What the command line says beyond LoadOptions.
struct Wanted {
  net::LoadOptions load;
  std::uint32_t seconds = 0;
  std::uint32_t patience = 10;
  bool json = false;
};

void declare(net::Options& options, Wanted& wanted) {
  net::LoadOptions& load = wanted.load;
  options.text("--host", "address of the server", load.host);
  options.number("--port", "port of the server", 1, 65535, load.port);
  options.number("--connections", "connections", 1, 1000000, load.connections);
  options.number("--size", "bytes of a request", 1, 1U << 30, load.size);
  options.number("--depth", "requests in flight on a connection", 1, 10000,
                 load.depth);
  options.number("--seconds", "how long, 0 for no limit", 0, 86400,
                 wanted.seconds);
  options.number("--requests", "requests in all, 0 for no limit", 0,
                 1'000'000'000'000, load.requests);
  options.number("--idle", "further connections: one echo, then silence", 0,
                 1000000, load.idle);
  options.number("--patience", "seconds of silence that count as an error", 1,
                 3600, wanted.patience);
  options.flag("--json", "one line of JSON instead of the report", wanted.json);
}

int run(Wanted& wanted) {
  net::LoadOptions& load = wanted.load;
  load.duration = std::chrono::seconds(wanted.seconds);
  load.patience = std::chrono::seconds(wanted.patience);
  if (wanted.seconds == 0 && load.requests == 0) load.duration = usual_time;
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  const LoadReport report =
      net::run_load(load, terminal ? show_progress : nullptr);
  if (terminal && report.time > std::chrono::seconds(2)) {
    std::fputc('\n', stderr);
  }
  wanted.json ? print_json(report) : print_lines(report, load.connections);
  return report.errors.all() == 0 && report.requests > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Wanted wanted;
  net::Options options(
      "[--host ADDRESS] [--port N] [--connections N] [--size BYTES] ...",
      "Drives an echo server and checks every byte that returns. Ends after\n"
      "the time or the number of requests that is given, whichever is first;\n"
      "after 5 seconds if neither is. Exits with status 1 after any error, or\n"
      "if nothing was served.");
  declare(options, wanted);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& arguments) {
        if (!arguments.empty()) {
          throw net::UsageError("unexpected argument '" + arguments[0] + "'");
        }
        return run(wanted);
      });
}
