// Chapter 03: many more clients, one thread, poll().
//
// New: a list with one entry for each client takes the place of the two
// bitmaps. Nobody is turned away for its number, and what we ask for and what
// we are told stand side by side, so nothing has to be copied. The price: the
// whole list is handed over and scanned in every round, however many are idle.

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <map>
#include <stdexcept>
#include <string>
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
  std::size_t place = 0;  // where it stands in the list handed to poll
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
  std::vector<pollfd> polled_;      // the listener, then every client
  std::vector<int> ready_;
  std::array<char, 65536> scratch_;
};

Server::Server(net::Fd listener) : listener_(std::move(listener)) {
  net::set_nonblocking(listener_);
  polled_.push_back({listener_.get(), POLLIN, 0});
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
  const int rest = rest_left();
  polled_[0].fd = rest >= 0 ? -1 : listener_.get();  // poll skips negative ones
  int left = ::poll(polled_.data(), polled_.size(), rest);
  if (left < 0) net::rest_or_throw("poll");
  for (std::size_t i = 0; left > 0; ++i) {
    const auto& [fd, events, revents] = polled_[i];
    if (revents == 0) continue;
    // Hang-up and error come unasked; the call we would make anyway tells why.
    if ((revents & POLLNVAL) != 0) {
      throw std::logic_error("poll: " + std::to_string(fd) + " is not open");
    }
    ready_.push_back(fd);
    --left;
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
  polled_.push_back({number, POLLIN, 0});
  clients_[number] = {std::move(fd), {}, polled_.size() - 1};
}

void Server::attend(int fd) {
  Client& client = clients_.at(fd);
  const bool alive =
      client.pending.empty() ? read_some(client, scratch_) : write_some(client);
  alive ? watch(client) : drop(fd);
}

// A client is waited for in one direction at a time.
void Server::watch(const Client& client) {
  polled_[client.place].events = client.pending.empty() ? POLLIN : POLLOUT;
}

// The last entry takes the free place, so the list has no gaps.
void Server::drop(int fd) {
  const std::size_t place = clients_.at(fd).place;
  polled_[place] = polled_.back();
  clients_.at(polled_[place].fd).place = place;
  polled_.pop_back();
  clients_.erase(fd);
  rest_until_ = {};  // there is a descriptor for the next one now
}

}  // namespace

void serve(net::Fd listener) { Server(std::move(listener)).run(); }
