#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace net {

// How long requests took, in buckets whose width is 1/32 of their value: any
// quantile is right to about 3 per cent, in 15 KiB however many there are.
class Histogram {
 public:
  void add(std::chrono::nanoseconds latency);
  std::chrono::nanoseconds quantile(double share) const;  // share in [0, 1]
  std::chrono::nanoseconds most() const { return most_; }

 private:
  static constexpr int fine_bits = 5;
  static constexpr std::size_t buckets = (65 - fine_bits) << fine_bits;

  std::array<std::uint64_t, buckets> counts_{};
  std::uint64_t sum_ = 0;
  std::chrono::nanoseconds most_{};
};

struct LoadOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  std::uint32_t connections = 50;
  std::uint32_t size = 64;  // bytes of a request
  std::uint32_t depth = 1;  // requests in flight on one connection
  // Ends after this time or so many requests, whichever is first; 0: no limit.
  // Requests in flight are waited for.
  std::chrono::milliseconds duration{0};
  std::uint64_t requests = 0;
  std::uint32_t idle = 0;  // further connections: one echo, then silence
  // Called once, when all have connected and before the first request.
  std::function<void()> connected;
  // A connection on which nothing moves for so long has timed out.
  std::chrono::milliseconds patience{10000};
};

// Connections that failed, by how.
struct LoadErrors {
  std::uint32_t refused = 0;     // connect failed
  std::uint32_t reset = 0;       // recv or send failed
  std::uint32_t early_end = 0;   // end of stream that nobody asked for
  std::uint32_t wrong_byte = 0;  // not what was sent, or more than was sent
  std::uint32_t timed_out = 0;

  std::uint32_t all() const {
    return refused + reset + early_end + wrong_byte + timed_out;
  }
};

struct LoadReport {
  std::uint64_t requests = 0;  // answered in full and right
  std::uint32_t served = 0;    // connections, idle ones not counted, with any
  // From the first request to the last answer; connecting and the echo of
  // the idle connections come before.
  std::chrono::duration<double> time{};
  Histogram latency;  // from when a request may be sent to its last byte back
  LoadErrors errors;
  std::string first_error;  // "connection 3: byte 70: sent 0x61, got 0x62"

  double rate() const {
    return time.count() > 0 ? static_cast<double>(requests) / time.count() : 0;
  }
};

// Drives an echo server from one thread and checks every byte that returns.
// While it runs, progress is called about once a second.
// Throws std::system_error, "connect ADDRESS: Reason", if a connection fails
// before any has succeeded, and std::runtime_error for options that cannot be:
// no end, or more connections than descriptors.
LoadReport run_load(
    const LoadOptions& options,
    const std::function<void(const LoadReport&)>& progress = {});

}  // namespace net
