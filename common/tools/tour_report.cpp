#include "common/tools/tour_report.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "common/testing/contract.hpp"
#include "common/tools/svg.hpp"

namespace net {
namespace {

constexpr const char* green = "\033[32m";
constexpr const char* red = "\033[31m";
constexpr const char* plain = "\033[0m";

std::string decimal(double value, int decimals) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return std::strtod(text, nullptr) == 0 && text[0] == '-' ? text + 1 : text;
}

std::string left(std::string text, std::size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

std::string right(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, text.size()), ' ') + text;
}

std::string figure(const std::optional<double>& value, int decimals) {
  return value ? decimal(*value, decimals) : "-";
}

std::string microseconds(const std::optional<double>& nanoseconds) {
  return nanoseconds ? decimal(*nanoseconds / 1000, 1) : "-";
}

// Coloured only around the text, so that columns keep their width.
std::string verdict(const std::string& text, std::size_t width, bool good,
                    bool colours) {
  if (!colours) return right(text, width);
  return right("", width - std::min(width, text.size())) +
         (good ? green : red) + text + plain;
}

std::string table_line(const TourRow& row, bool colours) {
  if (!row.failure.empty()) return left(row.chapter, 16) + " failed\n";
  std::string line = left(row.chapter, 16);
  line += ' ' + left(row.second ? row.second->sleeps_in : "", 11);
  const bool second = row.second && row.second->served;
  line += ' ' + verdict(row.second ? (second ? "served" : "waits") : "-", 6,
                        second, colours);
  const bool all = row.at_once && row.at_once->served == row.at_once->asked;
  line += ' ' + verdict(row.at_once ? grouped(row.at_once->served) : "-", 6,
                        all, colours);
  line += ' ' + right(figure(row.calls_one, 2), 5);
  line += ' ' + right(figure(row.calls_many, 2), 5);
  line += ' ' + right(microseconds(row.cpu_one), 5);
  line += ' ' + right(microseconds(row.cpu_many), 5);
  line += ' ' + right(microseconds(row.idle_cost), 6);
  line += ' ' + right(figure(row.bytes, 0), 6);
  return line + '\n';
}

bool any_sleeps_in(const std::vector<TourRow>& rows, std::string_view call) {
  return std::any_of(rows.begin(), rows.end(), [=](const TourRow& row) {
    return row.second && row.second->sleeps_in == call;
  });
}

const std::string counted_note =
    "counted by ptrace, with 1 client and with " +
    std::to_string(many_clients) +
    " that ask at once.\n             Tracing slows the server, so it finds "
    "more of them ready at a time.";

// "5,000, but 02-select 900"
std::string usual(std::size_t number, const std::vector<TourRow>& rows,
                  std::size_t TourRow::*clients) {
  std::string text = grouped(number);
  for (const TourRow& row : rows) {
    if (row.*clients == 0 || row.*clients == number) continue;
    text += ", but " + row.chapter + ' ' + grouped(row.*clients);
  }
  return text;
}

std::string rounds(std::size_t number) {
  return std::to_string(number) + (number == 1 ? " round" : " rounds");
}

Bar bar(const TourRow& row, const std::optional<double>& value,
        const std::string& text, const char* missing) {
  if (!row.failure.empty()) return {row.chapter, {}, "failed"};
  return {row.chapter, value, value ? text : missing};
}

Panel panel(const std::string& title, const std::string& note,
            const std::vector<TourRow>& rows, Bar (*make)(const TourRow&)) {
  Panel result{title, note, {}};
  for (const TourRow& row : rows) result.bars.push_back(make(row));
  return result;
}

Bar served_bar(const TourRow& row) {
  if (!row.at_once) return bar(row, {}, "", "not measured");
  const std::size_t served = row.at_once->served;
  return bar(row, static_cast<double>(served), grouped(served), "");
}

Bar second_bar(const TourRow& row) {
  if (!row.second) return bar(row, {}, "", "not measured");
  const std::string in = row.second->sleeps_in.empty()
                             ? ""
                             : "; asleep in " + row.second->sleeps_in;
  return {row.chapter, {}, (row.second->served ? "is served" : "waits") + in};
}

Bar calls_bar(const TourRow& row) {
  return bar(row, row.calls_one, figure(row.calls_one, 2), "not counted");
}

Bar cpu_bar(const TourRow& row) {
  return bar(row, row.cpu_one, microseconds(row.cpu_one) + " us",
             "not measured");
}

Bar idle_bar(const TourRow& row) {
  return bar(row, row.idle_cost, microseconds(row.idle_cost) + " us",
             "it cannot hold them");
}

Bar bytes_bar(const TourRow& row) {
  return bar(row, row.bytes, figure(row.bytes, 0), "it holds one client");
}

std::string broken_by(std::string_view chapter) {
  std::string text;
  for (const testing::Failure& failure : testing::expected_failures) {
    if (failure.chapter != chapter) continue;
    const auto promise = std::find_if(
        testing::promises.begin(), testing::promises.end(),
        [&](const auto& one) { return one.id == failure.promise; });
    text += "    " + left(std::string(promise->id), 4) +
            std::string(promise->text) +
            "\n        no: " + std::string(failure.why) + '\n';
  }
  return text;
}

}  // namespace

std::string tour_table(const std::vector<TourRow>& rows, const TourPlan& plan,
                       bool colours) {
  const std::string many = std::to_string(many_clients);
  std::string text = left("", 29) + right("second", 6) + right("served", 7) +
                     right("calls a", 12) + right("CPU us a", 12) +
                     right("idle", 7) + right("bytes", 7) + '\n';
  text += left("", 29) + right("client", 6) + right("of", 7) +
          right("request", 12) + right("request", 12) + right("cost", 7) +
          right("a", 7) + '\n';
  text += left("chapter", 17) + left("sleeps in", 12) + right("", 6) +
          right(grouped(plan.clients), 7);
  for (int i = 0; i < 2; ++i) text += right("1", 6) + right(many, 6);
  text += right("us", 7) + right("client", 7) + '\n';
  for (const TourRow& row : rows) text += table_line(row, colours);
  return text;
}

std::string tour_notes(const std::vector<TourRow>& rows, const TourPlan& plan) {
  const std::string many = std::to_string(many_clients);
  std::string text =
      "How: all of it measured in this run, over loopback.\n"
      "  sleeps in  the call while one client is silent, from procfs.\n";
  if (any_sleeps_in(rows, "pselect6")) {
    text += "             pselect6 is what select() asks of the kernel.\n";
  }
  if (any_sleeps_in(rows, "epoll_pwait")) {
    text +=
        "             epoll_pwait is what epoll_wait() asks of the kernel.\n";
  }
  text += "  served     " + grouped(plan.clients) +
          " clients connect and send, and none of them leaves.\n"
          "  calls      " +
          (plan.not_counted.empty() ? counted_note
                                    : "not counted here: " + plan.not_counted) +
          "\n  CPU        of the server, on one core with its clients, for "
          "requests "
          "of " +
          std::to_string(request_size) +
          "\n             bytes: " + grouped(plan.requests_one) +
          " of 1 client, " + grouped(plan.requests_many) + " of " + many +
          "; " + rounds(plan.rounds) +
          ", the chapters\n             in turn, median.\n";
  text +=
      "  idle cost  CPU of an echo beside idle clients minus without; the "
      "server "
      "sleeps\n             before each, on one core with its clients; " +
      rounds(plan.idle_rounds) + ", median.\n             Idle clients: " +
      usual(plan.idle, rows, &TourRow::idle) +
      ".\n  bytes      resident memory as a slope, from " +
      std::to_string(held_first) + " idle clients to so many:\n             " +
      usual(plan.held, rows, &TourRow::held) +
      ".\n  -          no figure, since it serves one client at a time or "
      "as said above.\n";
  return text;
}

std::string tour_story(const std::vector<TourRow>& rows) {
  std::string text = "What each chapter breaks of the " +
                     std::to_string(testing::promises.size()) +
                     " promises that the tests hold it to:\n";
  for (const TourRow& row : rows) {
    const std::string broken = broken_by(row.chapter);
    text += "  " + row.chapter + (broken.empty() ? ": none\n" : "\n" + broken);
  }
  return text;
}

std::string tour_picture(const std::vector<TourRow>& rows,
                         const TourPlan& plan) {
  const std::string idle = grouped(plan.idle);
  Chart chart{"From accept() to go(): what each server can do, and its price",
              "Measured in one run of the tour, over loopback, on one machine.",
              {}};
  chart.panels = {
      panel("A second client, while the first is silent",
            "and where the thread sleeps meanwhile", rows, second_bar),
      panel("Clients served at the same time",
            "of " + grouped(plan.clients) + " that connect and stay", rows,
            served_bar),
      panel("System calls a request", "counted, one client", rows, calls_bar),
      panel("CPU a request", "microseconds of the server, one client", rows,
            cpu_bar),
      panel("Beside " + idle + " idle clients",
            "microseconds of CPU more for an echo", rows, idle_bar),
      panel("Memory of an idle client", "bytes, as a slope", rows, bytes_bar)};
  return draw(chart);
}

std::string idle_picture(const std::vector<TourRow>& rows,
                         const TourPlan& plan) {
  Plot plot{"What idle clients cost: one echo of the one client that is busy",
            "CPU of the server in microseconds. Both axes are logarithmic.",
            "us",
            {},
            "clients that are idle",
            {"One echo: the thread wakes from its call, receives, sends, and "
             "sleeps in the call again. Server",
             "and clients share one core. Measured in one run of the tour, "
             "over loopback; " +
                 rounds(plan.idle_rounds) + ", median."}};
  std::string missing;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].echoes.empty()) {
      missing += (missing.empty() ? "" : ", ") + rows[i].chapter;
      continue;
    }
    Line line{rows[i].chapter, i, {}};
    for (const EchoCost& cost : rows[i].echoes) {
      line.points.push_back({static_cast<double>(cost.idle), cost.cpu / 1000});
    }
    plot.lines.push_back(line);
  }
  if (!missing.empty()) {
    plot.notes.push_back(
        "Not here, since it holds no idle clients: " + missing + '.');
  }
  return draw(plot);
}

}  // namespace net
