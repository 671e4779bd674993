// Belief: a number belongs to one client.
// Fails: who comes is not taken for who has left
// Message: the newcomer is not read until something is reported for it

#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"

// At most so many calls before the others get their turn.
inline constexpr int calls_a_turn = 4;
inline constexpr int accepts_a_turn = 64;

struct Client {
  net::Fd fd;
  // Read and not yet sent. While it holds bytes the client is not read.
  std::vector<char> pending;
  bool ready = false;  // something was reported and no call has used it up
};

// Who waits to be accepted: nobody, or the kernel will tell; perhaps somebody;
// somebody for whom there is no descriptor.
enum class Queue { Quiet, Ready, Stuck };

class Server {
 public:
  explicit Server(net::Fd listener) : listener_(std::move(listener)) {
    if (!watch(listener_, EPOLLIN)) net::throw_errno("epoll_ctl");
  }
  void run();  // until the listener is shut down

 private:
  void wait();
  int patience() const;
  void attend(const epoll_event& event);
  bool read_some(Client& client);
  bool write_some(Client& client);
  bool accept_clients();
  bool watch(const net::Fd& fd, std::uint32_t interest);

  net::Fd listener_;
  net::Fd epoll_{net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
  std::map<int, Client> clients_;   // by descriptor
  std::vector<epoll_event> ready_;  // whose turn it is
  Queue queue_ = Queue::Quiet;
  std::array<char, 65536> scratch_;
};

inline net::Fd open_listener(const net::Address& address) {
  net::Fd fd(net::check(::socket(address.get()->sa_family,
                                 SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
                        "socket", address.text()));
  const int on = 1;
  net::check(::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on),
             "setsockopt SO_REUSEADDR");
  net::check(::bind(fd.get(), address.get(), address.length), "bind",
             address.text());
  net::check(::listen(fd.get(), SOMAXCONN), "listen", address.text());
  return fd;
}

inline void Server::run() {
  bool listening = true;
  while (listening) {
    wait();
    for (const epoll_event& event : std::exchange(ready_, {})) {
      if (event.data.fd == listener_.get()) {
        queue_ = Queue::Ready;
        listening = accept_clients();
      } else {
        attend(event);
      }
    }
    if (listening && queue_ == Queue::Ready) listening = accept_clients();
  }
}

// The only place where the thread sleeps. Those still ready come first.
inline void Server::wait() {
  std::array<epoll_event, 128> events;
  const int n = ::epoll_wait(epoll_.get(), events.data(),
                             static_cast<int>(events.size()), patience());
  if (n < 0) net::rest_or_throw("epoll_wait");
  if (queue_ == Queue::Stuck) queue_ = Queue::Ready;
  if (n > 0) ready_.insert(ready_.end(), events.begin(), events.begin() + n);
}

// In milliseconds; 0 while there is work of which nobody will tell.
inline int Server::patience() const {
  if (!ready_.empty() || queue_ == Queue::Ready) return 0;
  return queue_ == Queue::Stuck ? 100 : -1;
}

// Goes on until a call says EAGAIN: from then on the kernel will tell. If the
// turn is over before, it will not, so the client gets another turn.
inline void Server::attend(const epoll_event& event) {
  const auto found = clients_.find(event.data.fd);
  if (found == clients_.end()) return;
  Client& client = found->second;
  if (event.events != 0 && client.ready) return;  // it stands in ready_ too
  client.ready = true;
  bool alive = true;
  for (int i = 0; i < calls_a_turn && alive && client.ready; ++i) {
    alive = client.pending.empty() ? read_some(client) : write_some(client);
  }
  if (!alive) {
    clients_.erase(found);
  } else if (client.ready) {
    ready_.push_back({0, event.data});
  }
}

// False: the client has finished or the connection is broken.
inline bool Server::read_some(Client& client) {
  const ssize_t n =
      ::recv(client.fd.get(), scratch_.data(), scratch_.size(), 0);
  if (n < 0 && errno == EAGAIN) client.ready = false;
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  client.pending.assign(scratch_.begin(), scratch_.begin() + n);
  return write_some(client);
}

// False: the connection is broken.
inline bool Server::write_some(Client& client) {
  std::vector<char>& pending = client.pending;
  const ssize_t n =
      ::send(client.fd.get(), pending.data(), pending.size(), MSG_NOSIGNAL);
  if (n < 0 && errno == EAGAIN) client.ready = false;
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  pending.erase(pending.begin(), pending.begin() + n);
  // An idle client must not keep the memory of its busiest moment.
  if (pending.empty()) pending.shrink_to_fit();
  return true;
}

// False: the listener has been shut down.
inline bool Server::accept_clients() {
  for (int i = 0; i < accepts_a_turn; ++i) {
    net::Fd fd(::accept4(listener_.get(), nullptr, nullptr,
                         SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      const int number = fd.get();
      constexpr auto all = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
      if (!watch(fd, all)) continue;  // the kernel's list is full
      clients_[number].fd = std::move(fd);
    } else if (errno == EAGAIN) {
      queue_ = Queue::Quiet;
      return true;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      queue_ = Queue::Stuck;
      return net::is_listening(listener_);
    }
  }
  return true;
}

// Once for each descriptor, for everything it will ever be waited for.
// False: the kernel has not taken it.
inline bool Server::watch(const net::Fd& fd, std::uint32_t interest) {
  epoll_event event{interest | EPOLLET, {.fd = fd.get()}};
  return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) == 0;
}

inline void serve(net::Fd listener) { Server(std::move(listener)).run(); }
