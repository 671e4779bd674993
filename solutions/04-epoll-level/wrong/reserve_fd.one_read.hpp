// Belief: one read takes all that has come.
// Fails: there is no room for one who has said something
// Message: it sees the end and no reset

#pragma once

#include <fcntl.h>
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
    // Before anybody is let in: there may be room for one only.
    if (!spare_) open_spare();
    Arrivals arrivals;
    for (int i = 0; i < accepts_a_round; ++i) {
      if (net::Fd client = accept(listener)) {
        arrivals.clients.push_back(std::move(client));
      } else if (errno != EMFILE || !refuse_one(listener)) {
        if (errno == EAGAIN) break;
        if (errno == EINTR || errno == ECONNABORTED) continue;
        arrivals.next = net::is_listening(listener) ? Next::Rest : Next::Stop;
        break;
      }
    }
    return arrivals;
  }

 private:
  static constexpr int accepts_a_round = 64;

  static net::Fd accept(const net::Fd& listener) {
    return net::Fd(::accept4(listener.get(), nullptr, nullptr,
                             SOCK_NONBLOCK | SOCK_CLOEXEC));
  }

  // No spare is no failure: the next round tries again.
  void open_spare() { spare_ = net::Fd(::open("/dev/null", O_CLOEXEC)); }

  // False: nobody was refused, and errno says why.
  bool refuse_one(const net::Fd& listener) {
    if (!spare_) return false;
    spare_ = net::Fd();
    net::Fd client = accept(listener);
    const int error = errno;
    const bool accepted = static_cast<bool>(client);
    if (accepted) send_away(std::move(client));
    open_spare();  // whatever accept has said
    errno = error;
    return accepted;
  }

  // close alone would be a reset if the client has said something: there would
  // be input that nobody has read.
  static void send_away(net::Fd client) {
    ::shutdown(client.get(), SHUT_WR);
    std::array<char, 4096> unread;
    ::recv(client.get(), unread.data(), unread.size(), 0);
  }

  net::Fd spare_;
};
