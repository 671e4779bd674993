// Nobody moves while the list is scanned: who leaves is struck out, and the
// gaps are closed at the end. poll itself skips negative numbers, so even a
// list with gaps could be handed over.

#pragma once

#include <poll.h>

#include <cstddef>
#include <functional>
#include <map>
#include <vector>

// One entry for each client, without gaps, in no particular order.
class DenseList {
 public:
  // Gets a descriptor and what poll reported on it. May add, remove and watch
  // any client, itself too.
  using Attend = std::function<void(int fd, short revents)>;

  // A client that is not in the list gets an entry on which nothing has been
  // reported.
  void add(int fd, short events) {
    places_[fd] = entries_.size();
    entries_.push_back({fd, events, 0});
  }

  // Leaves a gap behind as long as a sweep is under way. Throws
  // std::out_of_range if the client is not in the list; so does watch.
  void remove(int fd) {
    entries_.at(places_.at(fd)).fd = -1;
    places_.erase(fd);
    if (!sweeping_) close_gaps();
  }

  // From the next poll on the client is waited for like this.
  void watch(int fd, short events) {
    entries_.at(places_.at(fd)).events = events;
  }

  // To be handed to poll. Not to be asked for during a sweep.
  std::vector<pollfd>& entries() { return entries_; }

  // After poll: every client on which something was reported has its turn,
  // once. Who is removed before its turn has none. Who is added during the
  // sweep has none either, not even under a number that has just become free.
  void sweep(const Attend& attend) {
    const std::size_t old_size = entries_.size();
    sweeping_ = true;
    for (std::size_t i = 0; i < old_size; ++i) {
      const pollfd entry = entries_[i];
      if (entry.fd >= 0 && entry.revents != 0) attend(entry.fd, entry.revents);
    }
    sweeping_ = false;
    close_gaps();
  }

 private:
  void close_gaps() {
    std::erase_if(entries_, [](const pollfd& entry) { return entry.fd < 0; });
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      places_.at(entries_[i].fd) = i;
    }
  }

  std::vector<pollfd> entries_;
  std::map<int, std::size_t> places_;  // where each client's entry stands
  bool sweeping_ = false;
};
