// Belief: the nearest millisecond is the most exact.
// Fails: one client is there
// Message: a part of a millisecond counts as a whole one

#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <list>
#include <unordered_map>
#include <vector>

using Clock = std::chrono::steady_clock;

// The clients of a server and when they were last heard of. All have the same
// limit, so whoever was heard of first has the first deadline: a client that
// speaks goes to the end of the list, and the list stays sorted by itself.
class IdleClients {
 public:
  explicit IdleClients(std::chrono::milliseconds limit) : limit_(limit) {}

  // The client has come, or has said something.
  void heard(int fd, Clock::time_point now) {
    left(fd);
    places_[fd] = silent_.insert(silent_.end(), {fd, now});
  }

  // The client has left, if it was there.
  void left(int fd) {
    const auto found = places_.find(fd);
    if (found == places_.end()) return;
    silent_.erase(found->second);
    places_.erase(found);
  }

  // How long epoll_wait may sleep until somebody has been silent for the whole
  // limit: milliseconds, or -1 if nobody is there.
  int timeout(Clock::time_point now) const {
    if (silent_.empty()) return -1;
    const auto left = silent_.front().heard + limit_ - now;
    const std::int64_t whole = round<std::chrono::milliseconds>(left).count();
    constexpr std::int64_t most = std::numeric_limits<int>::max();
    return static_cast<int>(std::clamp<std::int64_t>(whole, 0, most));
  }

  // Everybody who has been silent for the whole limit, the longest silent
  // first. They are forgotten.
  std::vector<int> take_silent(Clock::time_point now) {
    std::vector<int> taken;
    while (!silent_.empty() && silent_.front().heard + limit_ <= now) {
      taken.push_back(silent_.front().fd);
      left(taken.back());
    }
    return taken;
  }

 private:
  struct Client {
    int fd;
    Clock::time_point heard;
  };

  std::chrono::milliseconds limit_;
  std::list<Client> silent_;  // the longest silent first
  std::unordered_map<int, std::list<Client>::iterator> places_;
};
