// Belief: a copy of the list is safe from whatever happens to it.
// Fails: who is removed before its turn has none
// Message: the three that stay have one turn each

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

  // The last entry takes the free place, however long the list is. Throws
  // std::out_of_range if the client is not in the list; so does watch.
  void remove(int fd) {
    const std::size_t place = places_.at(fd);
    entries_.at(place) = entries_.back();
    // Before the erase: the last one may be the one that leaves.
    places_.at(entries_[place].fd) = place;
    entries_.pop_back();
    places_.erase(fd);
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
    const std::vector<pollfd> copy = entries_;
    for (const pollfd& entry : copy) {
      if (entry.revents != 0) attend(entry.fd, entry.revents);
    }
  }

 private:
  std::vector<pollfd> entries_;
  std::map<int, std::size_t> places_;  // where each client's entry stands
};
