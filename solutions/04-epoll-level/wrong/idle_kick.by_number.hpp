// Belief: the order of the numbers is as good as any.
// Fails: several are silent
// Message: the longest silent comes first

#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

using Clock = std::chrono::steady_clock;

class IdleClients {
 public:
  explicit IdleClients(std::chrono::milliseconds limit) : limit_(limit) {}

  void heard(int fd, Clock::time_point now) { heard_[fd] = now; }

  void left(int fd) { heard_.erase(fd); }

  int timeout(Clock::time_point now) const {
    if (heard_.empty()) return -1;
    Clock::time_point first = now;
    for (const auto& [fd, heard] : heard_) first = std::min(first, heard);
    const auto left = first + limit_ - now;
    const std::int64_t whole = ceil<std::chrono::milliseconds>(left).count();
    constexpr std::int64_t most = std::numeric_limits<int>::max();
    return static_cast<int>(std::clamp<std::int64_t>(whole, 0, most));
  }

  std::vector<int> take_silent(Clock::time_point now) {
    std::vector<int> taken;
    for (const auto& [fd, heard] : heard_) {
      if (heard + limit_ <= now) taken.push_back(fd);
    }
    for (const int fd : taken) left(fd);
    return taken;
  }

 private:
  std::chrono::milliseconds limit_;
  std::map<int, Clock::time_point> heard_;
};
