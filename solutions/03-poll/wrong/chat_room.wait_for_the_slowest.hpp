// Belief: as in the echo server, what is unsent stops the reading.
// Fails: who never reads delays nobody and is let go
// Message: the others go on talking

#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"

inline constexpr std::size_t backlog_limit = std::size_t{1} << 20;

struct Guest {
  net::Fd fd;
  std::string backlog;    // said by others, not yet taken
  bool finished = false;  // has sent all it will ever say; is not read again
  bool gone = false;      // is removed at the end of the round
};

class Room {
 public:
  explicit Room(net::Fd listener) : listener_(std::move(listener)) {
    net::set_nonblocking(listener_);
  }
  void run();  // until the listener is shut down

 private:
  void wait();
  bool accept_guests();
  void attend(Guest& guest, short revents);
  void read_some(Guest& guest);
  void tell(Guest& guest, std::string_view words);
  void write_some(Guest& guest);

  net::Fd listener_;
  bool resting_ = false;  // no descriptor was free: one wait without listener
  std::vector<Guest> guests_;
  std::vector<pollfd> polled_;  // each guest at its own place, then listener_
  std::array<char, 65536> scratch_;
};

// Nobody changes places during a round: who leaves is removed at its end, who
// comes is added behind.
inline void Room::run() {
  bool listening = true;
  while (listening) {
    wait();
    for (std::size_t i = 0; i + 1 < polled_.size(); ++i) {
      attend(guests_[i], polled_[i].revents);
    }
    if (polled_.back().revents != 0) listening = accept_guests();
    std::erase_if(guests_, [](const Guest& guest) {
      return guest.gone || (guest.finished && guest.backlog.empty());
    });
  }
}

// The list is made anew: a round goes through all guests anyway.
inline void Room::wait() {
  polled_.clear();
  const bool unsent =
      std::any_of(guests_.begin(), guests_.end(),
                  [](const Guest& guest) { return !guest.backlog.empty(); });
  for (const Guest& guest : guests_) {
    const int in = guest.finished || unsent ? 0 : POLLIN;
    const int out = guest.backlog.empty() ? 0 : POLLOUT;
    polled_.push_back({guest.fd.get(), static_cast<short>(in | out), 0});
  }
  polled_.push_back({resting_ ? -1 : listener_.get(), POLLIN, 0});
  const int n = ::poll(polled_.data(), polled_.size(), resting_ ? 100 : -1);
  // An interrupted poll has reported nothing, in no entry.
  if (n < 0 && errno != EINTR) net::throw_errno("poll");
  resting_ = false;
}

// False: the listener has been shut down.
inline bool Room::accept_guests() {
  for (int i = 0; i < 64; ++i) {
    net::Fd fd(::accept4(listener_.get(), nullptr, nullptr,
                         SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      guests_.push_back({std::move(fd), {}});
    } else if (errno == EAGAIN) {
      return true;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      // The queue stays, so poll would report it again at once.
      resting_ = true;
      return net::is_listening(listener_);
    }
  }
  return true;
}

inline void Room::attend(Guest& guest, short revents) {
  if (guest.gone) return;
  if ((revents & POLLOUT) != 0) write_some(guest);
  if ((revents & POLLIN) != 0) {
    read_some(guest);
  } else if ((revents & (POLLHUP | POLLERR)) != 0) {
    guest.gone = true;
  }
}

inline void Room::read_some(Guest& guest) {
  const ssize_t n = ::recv(guest.fd.get(), scratch_.data(), scratch_.size(), 0);
  if (n < 0) {
    if (errno != EAGAIN && errno != EINTR) guest.gone = true;
    return;
  }
  if (n == 0) {
    guest.finished = true;
    return;
  }
  const std::string_view words(scratch_.data(), static_cast<std::size_t>(n));
  for (Guest& other : guests_) {
    if (&other != &guest) tell(other, words);
  }
}

inline void Room::tell(Guest& guest, std::string_view words) {
  if (guest.gone || guest.finished) return;
  if (guest.backlog.size() + words.size() > backlog_limit) {
    guest.gone = true;
    return;
  }
  const bool was_empty = guest.backlog.empty();
  guest.backlog += words;
  // Usually the kernel takes it all; behind a backlog it would take nothing.
  if (was_empty) write_some(guest);
}

inline void Room::write_some(Guest& guest) {
  std::string& backlog = guest.backlog;
  const ssize_t n =
      ::send(guest.fd.get(), backlog.data(), backlog.size(), MSG_NOSIGNAL);
  if (n < 0) {
    if (errno != EAGAIN && errno != EINTR) guest.gone = true;
    return;
  }
  backlog.erase(0, static_cast<std::size_t>(n));
  // A quiet guest must not keep the memory of the loudest moment.
  if (backlog.empty()) backlog.shrink_to_fit();
}

inline void serve(net::Fd listener) { Room(std::move(listener)).run(); }
