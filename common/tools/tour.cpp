// tour: starts the chapters' servers in turn, drives each with the same
// clients, and prints what it measured.

#include <linux/close_range.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/options.hpp"
#include "common/testing/process.hpp"
#include "common/tools/measure.hpp"
#include "common/tools/tour_report.hpp"

namespace {

using net::grouped;
using net::TourRow;

// The list stands in CMakeLists.txt, which builds what the tour needs.
constexpr std::array chapters{TOUR_CHAPTERS};

struct Settings {
  net::TourPlan plan;
  std::string only;
  std::string svg;
  bool quick = false;
};

// Ends the tour at once and leaves nothing behind: the kernel kills each
// server when the process that started it ends (PR_SET_PDEATHSIG).
void end_at_once(int signal) {
  constexpr std::string_view tidy = "\033[0m\n";
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  const std::string_view last = terminal ? tidy : tidy.substr(tidy.size() - 1);
  [[maybe_unused]] const ssize_t written =
      ::write(STDOUT_FILENO, last.data(), last.size());
  ::_exit(128 + signal);
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = end_at_once;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    ::sigaction(signal, &action, nullptr);
  }
}

// Lines of progress: on a terminal the last one is written again and again,
// elsewhere each is written once it is complete.
class Console {
 public:
  Console()
      : in_place_(::isatty(STDOUT_FILENO) == 1 && !is("TERM", "dumb")),
        colours_(in_place_ && std::getenv("NO_COLOR") == nullptr) {}

  bool colours() const { return colours_; }

  void print(const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }

  void begin(const std::string& label) {
    label_ = "  " + label;
    label_.resize(std::max<std::size_t>(label_.size(), 38), ' ');
    shown_ = {};
    update("...");
  }

  void update(const std::string& text) {
    constexpr std::chrono::milliseconds pause{50};
    const auto now = testing::Clock::now();
    if (!in_place_ || now - shown_ < pause) return;
    shown_ = now;
    print("\r\033[K" + label_ + text);
  }

  void end(const std::string& text) {
    print((in_place_ ? "\r\033[K" : "") + label_ + text + '\n');
  }

 private:
  static bool is(const char* variable, std::string_view value) {
    const char* const set = std::getenv(variable);
    return set != nullptr && set == value;
  }

  bool in_place_;
  bool colours_;
  std::string label_;
  testing::Clock::time_point shown_{};
};

std::string decimal(double value, int decimals) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string done_of(std::size_t done, std::size_t of) {
  return grouped(done) + " of " + grouped(of);
}

// "3.00: poll, recvfrom, sendto"
std::string calls_text(const net::RequestCalls& calls) {
  std::string text = decimal(calls.each(), 2);
  for (std::size_t i = 0; i < calls.calls.size() && i < 3; ++i) {
    text += (i == 0 ? ": " : ", ") + calls.calls[i].name;
  }
  return text;
}

void write(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  if (!file) throw std::runtime_error("cannot write " + path);
}

// "build/tour-idle.svg" for "build/tour.svg"
std::string beside(const std::string& picture) {
  std::filesystem::path path(picture);
  path.replace_filename(path.stem().string() + "-idle" +
                        path.extension().string());
  return path;
}

class Tour {
 public:
  explicit Tour(const Settings& settings);

  // The exit status.
  int run();

 private:
  std::string path_of(const TourRow& row) const {
    return folder_ + row.chapter;
  }
  bool holds_many(const TourRow& row) const {
    return row.at_once && row.at_once->served > net::many_clients;
  }
  void visit(TourRow& row);
  void ask_second(TourRow& row);
  void ask_many(TourRow& row);
  void count_calls(TourRow& row);
  std::optional<double> count_with(const TourRow& row, std::size_t clients);
  void weigh_idle(TourRow& row);
  void hold_idle(TourRow& row);
  void measure_cpu();
  void attempt(TourRow& row, const std::function<void()>& measure);
  int report();

  Console console_;
  net::TourPlan plan_;
  std::string folder_;  // of the programs
  std::string svg_;
  std::string idle_svg_;
  std::vector<TourRow> rows_;
};

Tour::Tour(const Settings& settings)
    : plan_(settings.plan), svg_(settings.svg) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  folder_ = self.parent_path().string() + '/';
  if (svg_.empty()) svg_ = self.parent_path().parent_path() / "tour.svg";
  idle_svg_ = beside(svg_);
  for (const std::string_view chapter : chapters) {
    if (!chapter.starts_with(settings.only)) continue;
    rows_.emplace_back().chapter = chapter;
  }
  if (rows_.empty()) {
    throw net::UsageError("--only: no chapter " + settings.only);
  }
}

// A server that fails is left, and the tour goes on to the next.
void Tour::attempt(TourRow& row, const std::function<void()>& measure) {
  if (!row.failure.empty()) return;
  try {
    measure();
  } catch (const net::ServerFailed& failed) {
    row.failure = failed.what();
    console_.end("failed\n" + row.failure);
  }
}

void Tour::visit(TourRow& row) {
  console_.print(row.chapter + '\n');
  attempt(row, [&] { ask_second(row); });
  attempt(row, [&] { ask_many(row); });
  attempt(row, [&] { count_calls(row); });
  if (!holds_many(row)) return;
  attempt(row, [&] { weigh_idle(row); });
  attempt(row, [&] { hold_idle(row); });
}

void Tour::ask_second(TourRow& row) {
  console_.begin("a second client, one is silent");
  row.second = net::second_client(path_of(row));
  const std::string& call = row.second->sleeps_in;
  console_.end(std::string(row.second->served ? "is served" : "waits") +
               (call.empty() ? "" : "; the thread sleeps in " + call));
}

void Tour::ask_many(TourRow& row) {
  console_.begin(grouped(plan_.clients) + " clients, none leaves");
  row.at_once = net::served_at_once(
      path_of(row), plan_.clients, [this](std::size_t done, std::size_t of) {
        console_.update(done_of(done, of) + " served");
      });
  std::string text = grouped(row.at_once->served) + " served";
  if (row.at_once->turned_away > 0) {
    text += ", " + grouped(row.at_once->turned_away) + " turned away";
  }
  if (row.at_once->waiting() > 0) {
    text += ", " + grouped(row.at_once->waiting()) + " wait";
  }
  console_.end(text);
}

void Tour::count_calls(TourRow& row) {
  row.calls_one = count_with(row, 1);
  if (holds_many(row)) row.calls_many = count_with(row, net::many_clients);
}

std::optional<double> Tour::count_with(const TourRow& row,
                                       std::size_t clients) {
  console_.begin("system calls a request, " + std::to_string(clients) +
                 (clients == 1 ? " client" : " clients"));
  const net::RequestCalls calls =
      net::calls_of_requests(path_of(row), clients, plan_.count_rounds);
  if (!calls.refused.empty()) {
    plan_.not_counted = calls.refused;
    console_.end("not counted here");
    return {};
  }
  console_.end(calls_text(calls));
  return calls.each();
}

void Tour::weigh_idle(TourRow& row) {
  // All the steps or, where not all are served, those with room to spare.
  std::vector<std::size_t> steps = plan_.idle_steps;
  const std::size_t most = (row.at_once->served - 1) / 100 * 100;
  if (row.at_once->waiting() + row.at_once->turned_away > 0) {
    std::erase_if(steps, [=](std::size_t step) { return step > most; });
  }
  console_.begin("an echo beside idle clients");
  std::vector<std::vector<double>> figures(steps.size());
  for (std::size_t round = 1; round <= plan_.idle_rounds; ++round) {
    const auto costs = net::echoes_beside_idle(
        path_of(row), steps, plan_.echoes,
        [&](std::size_t done, std::size_t of) {
          console_.update("round " + done_of(round, plan_.idle_rounds) + ", " +
                          done_of(done, of) + " clients");
        });
    for (std::size_t i = 0; i < costs.size(); ++i) {
      figures[i].push_back(costs[i].cpu);
    }
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    row.echoes.push_back({steps[i], net::median(figures[i])});
    if (steps[i] > plan_.idle) continue;
    row.idle = steps[i];
    row.idle_cost = row.echoes[i].cpu - row.echoes[0].cpu;
  }
  const auto& [idle, cpu] = row.echoes.back();
  console_.end(decimal(row.echoes[0].cpu / 1000, 1) + " us of CPU, beside " +
               grouped(idle) + " of them " + decimal(cpu / 1000, 1));
}

void Tour::hold_idle(TourRow& row) {
  console_.begin("memory of an idle client");
  row.held = row.at_once->served == row.at_once->asked
                 ? plan_.held
                 : (row.at_once->served - 1) / 100 * 100 - net::held_first;
  row.bytes =
      net::bytes_of_idle(path_of(row), net::held_first, row.held,
                         [this](std::size_t done, std::size_t of) {
                           console_.update(done_of(done, of) + " clients");
                         });
  console_.end(decimal(*row.bytes, 0) + " bytes, from " +
               grouped(net::held_first) + " to " + grouped(row.held) +
               " clients");
}

void Tour::measure_cpu() {
  const net::OneCore pinned;
  console_.print("all of them in turn\n");
  console_.begin("CPU a request");
  std::vector<std::vector<double>> one(rows_.size());
  std::vector<std::vector<double>> many(rows_.size());
  const auto measure = [&](std::size_t i, std::uint32_t clients,
                           std::uint64_t requests, auto& figures) {
    attempt(rows_[i], [&] {
      const net::LoadCost cost = net::cost_under_load(
          path_of(rows_[i]), clients, net::request_size, requests);
      figures[i].push_back(cost.cpu);
    });
  };
  for (std::uint32_t round = 1; round <= plan_.rounds; ++round) {
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      console_.update("round " + done_of(round, plan_.rounds) + ", " +
                      rows_[i].chapter);
      measure(i, 1, plan_.requests_one, one);
      if (!holds_many(rows_[i])) continue;
      measure(i, net::many_clients, plan_.requests_many, many);
    }
  }
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (!one[i].empty()) rows_[i].cpu_one = net::median(one[i]);
    if (!many[i].empty()) rows_[i].cpu_many = net::median(many[i]);
  }
  console_.end(done_of(plan_.rounds, plan_.rounds) + " rounds");
}

int Tour::report() {
  console_.print('\n' + net::tour_table(rows_, plan_, console_.colours()) +
                 '\n' + net::tour_notes(rows_, plan_) + '\n' +
                 net::tour_story(rows_) + '\n');
  write(svg_, net::tour_picture(rows_, plan_));
  write(idle_svg_, net::idle_picture(rows_, plan_));
  console_.print("Next, the first lesson: chapters/01-blocking/README.md\n" +
                 std::string("The same as a picture: ") + svg_ +
                 "\nWhat idle clients cost, as a picture: " + idle_svg_ + '\n');
  return std::all_of(rows_.begin(), rows_.end(),
                     [](const TourRow& row) { return row.failure.empty(); })
             ? 0
             : 1;
}

int Tour::run() {
  const auto start = testing::Clock::now();
  console_.print(
      "One echo server a chapter, each driven by the same clients.\n");
  for (TourRow& row : rows_) visit(row);
  measure_cpu();
  const std::chrono::duration<double> time = testing::Clock::now() - start;
  console_.print("Measured in " + decimal(time.count(), 0) + " seconds.\n");
  return report();
}

void make_quick(net::TourPlan& plan) {
  plan.rounds = 1;
  plan.requests_one = 500;
  plan.requests_many = 2000;
  plan.count_rounds = 5;
  plan.echoes = 200;
  plan.idle_steps = {0, 10, 100, 1000};
  plan.idle_rounds = 1;
  plan.held = 1000;
}

// The tour has as many clients as it may have descriptors, less its own.
void fit_to_descriptors(net::TourPlan& plan) {
  constexpr std::uint64_t own = 100;
  const std::uint64_t limit = testing::raise_descriptor_limit();
  const std::size_t most = std::max(limit, 4 * own) - own;
  const std::size_t wanted =
      std::max({plan.held, plan.clients, plan.idle_steps.back()});
  if (most >= wanted) return;
  std::printf("The limit is %llu descriptors here: fewer clients than usual.\n",
              static_cast<unsigned long long>(limit));
  plan.clients = std::min(plan.clients, most);
  plan.held = std::min(plan.held, most);
  std::erase_if(plan.idle_steps, [=](std::size_t step) { return step > most; });
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  net::Options options("[--only NN] [--quick] [--svg FILE]",
                       "Drives the chapters' servers and shows in a table, and "
                       "in a picture, what each\ncan do and what it costs.");
  options.text("--only", "one chapter, by its number", settings.only);
  options.flag("--quick", "fewer rounds, rougher figures", settings.quick);
  options.text("--svg", "file for the first picture (tour.svg beside bin)",
               settings.svg);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& arguments) {
        if (!arguments.empty()) {
          throw net::UsageError("unexpected argument '" + arguments[0] + "'");
        }
        catch_signals();
        // What we inherited would take numbers from the servers' descriptors.
        ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
        if (settings.quick) make_quick(settings.plan);
        fit_to_descriptors(settings.plan);
        return Tour(settings).run();
      });
}
