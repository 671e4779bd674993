#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "common/tools/measure.hpp"

namespace net {

// What the tour has measured of one chapter. A figure that could not be
// measured is absent; `missing` says once why.
struct TourRow {
  std::string chapter;
  std::optional<SecondClient> second;
  std::optional<AtOnce> at_once;
  std::optional<double> calls_one;   // a request, with one client
  std::optional<double> calls_many;  // with many clients
  std::optional<double> cpu_one;     // nanoseconds a request
  std::optional<double> cpu_many;
  std::vector<EchoCost> echoes;     // beside idle clients, step by step
  std::optional<double> idle_cost;  // nanoseconds an echo more than with none
  std::size_t idle = 0;             // clients it was measured with
  std::optional<double> bytes;      // an idle client
  std::size_t held = 0;             // idle clients it was measured with
  std::string failure;              // why it was left, else empty
};

// How the figures of a run came about.
struct TourPlan {
  std::uint32_t rounds = 5;
  std::uint64_t requests_one = 5000;
  std::uint64_t requests_many = 20000;
  std::size_t count_rounds = 20;
  std::size_t echoes = 2000;  // of the busy client beside the idle ones
  std::size_t clients = 1100;
  std::size_t idle = 1000;  // one of the steps
  std::vector<std::size_t> idle_steps{0, 10, 30, 100, 300, 1000, 3000, 9000};
  std::size_t idle_rounds = 3;
  std::size_t held = 5000;
  std::string not_counted;  // why system calls are not, else empty
};

inline constexpr std::uint32_t many_clients = 50;
inline constexpr std::uint32_t request_size = 64;  // bytes
inline constexpr std::size_t held_first = 100;

// The texts of the report; every line has at most 80 columns. With colours,
// escape sequences stand around the verdicts.
std::string tour_table(const std::vector<TourRow>& rows, const TourPlan& plan,
                       bool colours);
std::string tour_notes(const std::vector<TourRow>& rows, const TourPlan& plan);
std::string tour_story(const std::vector<TourRow>& rows);

// The table as a picture: an SVG document.
std::string tour_picture(const std::vector<TourRow>& rows,
                         const TourPlan& plan);

// The cost of an echo against the number of idle clients: an SVG document.
std::string idle_picture(const std::vector<TourRow>& rows,
                         const TourPlan& plan);

}  // namespace net
