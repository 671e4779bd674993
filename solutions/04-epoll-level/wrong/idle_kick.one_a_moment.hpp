// Belief: no two clients are heard of at the same time.
// Fails: several are silent
// Message: all are taken

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

  void heard(int fd, Clock::time_point now) {
    left(fd);
    deadlines_[now + limit_] = fd;
    clients_[fd] = now + limit_;
  }

  void left(int fd) {
    const auto found = clients_.find(fd);
    if (found == clients_.end()) return;
    deadlines_.erase(found->second);
    clients_.erase(found);
  }

  int timeout(Clock::time_point now) const {
    if (deadlines_.empty()) return -1;
    const auto left = deadlines_.begin()->first - now;
    const std::int64_t whole = ceil<std::chrono::milliseconds>(left).count();
    constexpr std::int64_t most = std::numeric_limits<int>::max();
    return static_cast<int>(std::clamp<std::int64_t>(whole, 0, most));
  }

  std::vector<int> take_silent(Clock::time_point now) {
    std::vector<int> taken;
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      taken.push_back(deadlines_.begin()->second);
      left(taken.back());
    }
    return taken;
  }

 private:
  std::chrono::milliseconds limit_;
  std::map<Clock::time_point, int> deadlines_;
  std::map<int, Clock::time_point> clients_;
};
