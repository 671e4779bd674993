// A word costs one store: the queue is not touched. A client whose turn comes
// at the front and who has spoken meanwhile is put back in. So a deadline may
// come that was true once: at most one wakeup for each client and limit does
// nothing, which is why timeout cleans up first.

#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <queue>
#include <utility>
#include <vector>

using Clock = std::chrono::steady_clock;

class IdleClients {
 public:
  explicit IdleClients(std::chrono::milliseconds limit) : limit_(limit) {}

  void heard(int fd, Clock::time_point now) {
    const auto [place, is_new] = clients_.try_emplace(fd);
    place->second.heard = now;
    if (!is_new) return;
    place->second.visit = ++visits_;
    queue_.push({now, fd, visits_});
  }

  void left(int fd) { clients_.erase(fd); }

  int timeout(Clock::time_point now) const {
    clean_up();
    if (queue_.empty()) return -1;
    const auto left = queue_.top().heard + limit_ - now;
    const std::int64_t whole = ceil<std::chrono::milliseconds>(left).count();
    constexpr std::int64_t most = std::numeric_limits<int>::max();
    return static_cast<int>(std::clamp<std::int64_t>(whole, 0, most));
  }

  std::vector<int> take_silent(Clock::time_point now) {
    std::vector<int> taken;
    clean_up();
    while (!queue_.empty() && queue_.top().heard + limit_ <= now) {
      taken.push_back(queue_.top().fd);
      left(taken.back());
      clean_up();
    }
    return taken;
  }

 private:
  struct Client {
    Clock::time_point heard;
    std::uint64_t visit = 0;  // tells the users of a number apart
  };

  struct Entry {
    Clock::time_point heard;  // when it was put in
    int fd;
    std::uint64_t visit;
    bool operator<(const Entry& other) const { return heard > other.heard; }
  };

  // Until the entry at the front is true.
  void clean_up() const {
    while (!queue_.empty()) {
      Entry entry = queue_.top();
      const auto found = clients_.find(entry.fd);
      const bool there =
          found != clients_.end() && found->second.visit == entry.visit;
      if (there && found->second.heard == entry.heard) return;
      queue_.pop();
      if (!there) continue;
      entry.heard = found->second.heard;
      queue_.push(entry);
    }
  }

  std::chrono::milliseconds limit_;
  std::map<int, Client> clients_;
  std::uint64_t visits_ = 0;
  mutable std::priority_queue<Entry> queue_;  // the earliest entry at the front
};
