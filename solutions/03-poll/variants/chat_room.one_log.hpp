// What is said is stored once, in one log, however many are to hear it; each
// guest has a place in the log. The limit counts the bytes a guest has not
// taken, not the 40 that a log entry costs besides, however short it is.

#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"

inline constexpr std::size_t backlog_limit = std::size_t{1} << 20;

struct Words {
  std::string text;
  std::size_t speaker;
};

struct Guest {
  net::Fd fd;
  std::size_t number;      // no two guests ever have the same
  std::size_t next;        // which words it takes next, by number
  std::size_t taken = 0;   // bytes of them that it has taken
  std::size_t unsent = 0;  // bytes said by others that it has not
  bool finished = false;   // has sent all it will ever say; is not read again
  bool gone = false;       // is removed at the end of the round
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
  void tell(Guest& guest, std::size_t bytes);
  void write_some(Guest& guest);
  void forget();
  std::size_t log_end() const { return forgotten_ + log_.size(); }

  net::Fd listener_;
  bool resting_ = false;  // no descriptor was free: one wait without listener
  std::vector<Guest> guests_;
  std::size_t next_number_ = 0;
  std::deque<Words> log_;
  std::size_t forgotten_ = 0;   // words that stood in the log before
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
      return guest.gone || (guest.finished && guest.unsent == 0);
    });
    forget();
  }
}

// The list is made anew: a round goes through all guests anyway.
inline void Room::wait() {
  polled_.clear();
  for (const Guest& guest : guests_) {
    const int in = guest.finished ? 0 : POLLIN;
    const int out = guest.unsent == 0 ? 0 : POLLOUT;
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
      guests_.push_back({std::move(fd), next_number_++, log_end()});
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
  const auto bytes = static_cast<std::size_t>(n);
  log_.push_back({std::string(scratch_.data(), bytes), guest.number});
  for (Guest& other : guests_) {
    if (&other != &guest) tell(other, bytes);
  }
}

inline void Room::tell(Guest& guest, std::size_t bytes) {
  if (guest.gone || guest.finished) return;
  if (guest.unsent + bytes > backlog_limit) {
    guest.gone = true;
    return;
  }
  const bool was_empty = guest.unsent == 0;
  guest.unsent += bytes;
  if (was_empty) write_some(guest);
}

inline void Room::write_some(Guest& guest) {
  while (guest.unsent > 0) {
    const Words& words = log_[guest.next - forgotten_];
    if (words.speaker == guest.number) {
      ++guest.next;
      continue;
    }
    const std::size_t left = words.text.size() - guest.taken;
    const ssize_t n = ::send(guest.fd.get(), words.text.data() + guest.taken,
                             left, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno != EAGAIN && errno != EINTR) guest.gone = true;
      return;
    }
    guest.taken += static_cast<std::size_t>(n);
    guest.unsent -= static_cast<std::size_t>(n);
    if (guest.taken < words.text.size()) return;
    ++guest.next;
    guest.taken = 0;
  }
}

// Removes from the log what nobody is still to take.
inline void Room::forget() {
  std::size_t oldest = log_end();
  for (Guest& guest : guests_) {
    if (guest.unsent == 0) guest.next = log_end();
    oldest = std::min(oldest, guest.next);
  }
  for (; forgotten_ < oldest; ++forgotten_) log_.pop_front();
}

inline void serve(net::Fd listener) { Room(std::move(listener)).run(); }
