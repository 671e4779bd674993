// Belief: a refusal is so short that it needs no bound.
// Fails: many come at once
// Message: at most 64 are refused at once

#pragma once

#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "common/fd.hpp"
#include "common/socket.hpp"

// What the server does with the listener from now on.
enum class Next {
  Wait,  // goes on waiting for it
  Rest,  // leaves it out for a while: it would be reported again at once
  Stop,  // it has been shut down
};

struct Arrivals {
  std::vector<net::Fd> clients;  // let in: non-blocking and close-on-exec
  Next next = Next::Wait;
};

// Keeps one descriptor open for nothing, the spare. When there is no other left
// it is closed; a client can be accepted in its place, only to be refused.
class Doorman {
 public:
  Doorman() { open_spare(); }

  // Called when the listener has been reported: a non-blocking TCP socket,
  // watched level-triggered.
  Arrivals receive(const net::Fd& listener) {
    if (!spare_) open_spare();
    Arrivals arrivals;
    int error = 0;
    for (int i = 0; i < accepts_a_round && worth_another_try(error); ++i) {
      net::Fd client = accept(listener);
      error = client ? 0 : errno;
      if (client) arrivals.clients.push_back(std::move(client));
    }
    if (error == EMFILE && spare_) error = refuse_all(listener);
    if (!worth_another_try(error) && error != EAGAIN) {
      arrivals.next = net::is_listening(listener) ? Next::Rest : Next::Stop;
    }
    return arrivals;
  }

 private:
  static constexpr int accepts_a_round = 64;
  static constexpr int reads_a_refusal = 64;

  static bool worth_another_try(int error) {
    return error == 0 || error == EINTR || error == ECONNABORTED;
  }

  static net::Fd accept(const net::Fd& listener) {
    return net::Fd(::accept4(listener.get(), nullptr, nullptr,
                             SOCK_NONBLOCK | SOCK_CLOEXEC));
  }

  // An eventfd needs no name in the file system: it works in a chroot too.
  void open_spare() { spare_ = net::Fd(::eventfd(0, EFD_CLOEXEC)); }

  // The error with which the queue ends; 0 if it may hold some more.
  int refuse_all(const net::Fd& listener) {
    spare_ = net::Fd();
    int error = 0;
    while (worth_another_try(error)) {
      net::Fd client = accept(listener);
      error = client ? 0 : errno;
      if (client) send_away(std::move(client));
    }
    open_spare();
    return error;
  }

  // close alone would be a reset if the client has said something: there would
  // be input that nobody has read.
  static void send_away(net::Fd client) {
    ::shutdown(client.get(), SHUT_WR);
    std::array<char, 4096> unread;
    for (int i = 0; i < reads_a_refusal; ++i) {
      if (::recv(client.get(), unread.data(), unread.size(), 0) <= 0) break;
    }
  }

  net::Fd spare_;
};
