// Chapter 02: many clients, one thread, select().
//
// New: the sockets no longer block, and the thread sleeps in one place only,
// select(), for all of them at once. So a client's state leaves the stack of
// serve_client for a struct. The price: a set has FD_SETSIZE (1,024) bits, and
// a client whose descriptor is beyond has to be turned away.

#include <sys/select.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/socket.hpp"

namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// How long the listener rests when there is no descriptor for a client.
constexpr milliseconds rest_limit{100};

// At most so many clients are accepted before the others get their turn.
constexpr int accepts_a_round = 64;

struct Client {
  net::Fd fd;
  // Read and not yet sent. While it holds bytes the client is not read, so
  // it never holds more than one read brought.
  std::vector<char> pending;
};

bool worth_another_try(int error) { return error == EAGAIN || error == EINTR; }

// Sends what the kernel will take and keeps the rest for later.
// False: the connection is broken.
bool write_some(Client& client) {
  std::vector<char>& pending = client.pending;
  const ssize_t n =
      ::send(client.fd.get(), pending.data(), pending.size(), MSG_NOSIGNAL);
  if (n < 0) return worth_another_try(errno);
  pending.erase(pending.begin(), pending.begin() + n);
  // An idle client must not keep the memory of its busiest moment.
  if (pending.empty()) pending.shrink_to_fit();
  return true;
}

// Reads once and sends at once: usually the kernel takes it all.
// False: the client has finished or the connection is broken.
bool read_some(Client& client, std::array<char, 65536>& scratch) {
  const ssize_t n = ::recv(client.fd.get(), scratch.data(), scratch.size(), 0);
  if (n < 0) return worth_another_try(errno);
  if (n == 0) return false;
  client.pending.assign(scratch.begin(), scratch.begin() + n);
  return write_some(client);
}

class Server {
 public:
  explicit Server(net::Fd listener);
  void run();  // until the listener is shut down

 private:
  const std::vector<int>& wait();
  int rest_left() const;
  bool accept_clients();
  void add(net::Fd fd);
  void attend(int fd);
  void watch(const Client& client);
  void drop(int fd);

  net::Fd listener_;
  Clock::time_point rest_until_{};  // until then the listener is not watched
  std::map<int, Client> clients_;   // by descriptor
  fd_set to_read_{};                // the listener, clients with none pending
  fd_set to_write_{};               // all other clients
  std::vector<int> ready_;
  std::array<char, 65536> scratch_;
};

Server::Server(net::Fd listener) : listener_(std::move(listener)) {
  if (listener_.get() >= FD_SETSIZE) {
    throw std::runtime_error("select: the listener is beyond FD_SETSIZE");
  }
  net::set_nonblocking(listener_);
  FD_SET(listener_.get(), &to_read_);
}

void Server::run() {
  bool listening = true;
  while (listening) {
    for (const int fd : wait()) {
      if (fd == listener_.get()) {
        listening = accept_clients();
      } else {
        attend(fd);
      }
    }
  }
}

// The only place where the thread sleeps. Returns the descriptors on which a
// call is worth a try; which call, the client knows. Each stands there once and
// only its own turn closes it, so no number can change hands before its turn.
const std::vector<int>& Server::wait() {
  ready_.clear();
  fd_set readable = to_read_;  // copies: select overwrites what it is given
  fd_set writable = to_write_;
  const int rest = rest_left();
  if (rest >= 0) FD_CLR(listener_.get(), &readable);
  timeval limit{0, rest * 1000};
  int highest = listener_.get();
  if (!clients_.empty()) highest = std::max(highest, clients_.rbegin()->first);
  int left = ::select(highest + 1, &readable, &writable, nullptr,
                      rest >= 0 ? &limit : nullptr);
  if (left < 0) net::rest_or_throw("select");
  for (int fd = 0; left > 0; ++fd) {
    if (FD_ISSET(fd, &readable) || FD_ISSET(fd, &writable)) {
      ready_.push_back(fd);
      --left;
    }
  }
  return ready_;
}

// Milliseconds, rounded up; -1 if the listener is not resting.
int Server::rest_left() const {
  if (rest_until_ == Clock::time_point{}) return -1;
  const auto left = ceil<milliseconds>(rest_until_ - Clock::now()).count();
  return left > 0 ? static_cast<int>(left) : -1;
}

// False: the listener has been shut down.
bool Server::accept_clients() {
  for (int i = 0; i < accepts_a_round; ++i) {
    net::Fd fd(::accept4(listener_.get(), nullptr, nullptr,
                         SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      add(std::move(fd));
    } else if (errno == EAGAIN) {
      return true;
    } else if (errno != EINTR && errno != ECONNABORTED) {
      // No descriptor, no memory: the queue stays; at once would spin.
      rest_until_ = Clock::now() + rest_limit;
      break;
    }
  }
  return net::is_listening(listener_);
}

void Server::add(net::Fd fd) {
  const int number = fd.get();
  if (number >= FD_SETSIZE) return;  // closed: the client sees end of stream
  watch(clients_[number] = {std::move(fd), {}});
}

void Server::attend(int fd) {
  Client& client = clients_.at(fd);
  const bool alive =
      client.pending.empty() ? read_some(client, scratch_) : write_some(client);
  alive ? watch(client) : drop(fd);
}

// A client is waited for in one direction at a time.
void Server::watch(const Client& client) {
  const bool idle = client.pending.empty();
  FD_SET(client.fd.get(), idle ? &to_read_ : &to_write_);
  FD_CLR(client.fd.get(), idle ? &to_write_ : &to_read_);
}

void Server::drop(int fd) {
  FD_CLR(fd, &to_read_);
  FD_CLR(fd, &to_write_);
  clients_.erase(fd);
  rest_until_ = {};  // there is a descriptor for the next one now
}

}  // namespace

void serve(net::Fd listener) { Server(std::move(listener)).run(); }
