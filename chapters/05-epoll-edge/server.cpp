// Chapter 05: the kernel reports changes, epoll, edge-triggered.
//
// New: a client is told to the kernel once, for everything. What is ready is
// reported when it becomes so, and not again: the server remembers it and goes
// on until a call has used it up. The price: who is forgotten with input
// unread is never heard of again.

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <map>
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

// Those who find no room are reported in the next round.
constexpr int events_a_round = 128;

// A client's turn: at most so many reads of 64 KiB, then the others get theirs.
constexpr int tries_a_turn = 4;

// A descriptor's number is given again, a generation is not.
struct Key {
  int fd;
  std::uint32_t generation;
};

struct Client {
  net::Fd fd;
  // Read and not yet sent. While it holds bytes the client is not read, so
  // it never holds more than one read brought.
  std::vector<char> pending;
  std::uint32_t generation = 0;
  bool ready = false;  // something was reported and no call has used it up
  bool wary = false;   // more than bytes may stand behind a short read
};

bool worth_another_try(int error) { return error == EAGAIN || error == EINTR; }

// Sends what the kernel will take and keeps the rest for later.
// False: the connection is broken.
bool write_some(Client& client) {
  std::vector<char>& pending = client.pending;
  const ssize_t n =
      ::send(client.fd.get(), pending.data(), pending.size(), MSG_NOSIGNAL);
  if (n < 0) client.ready = errno == EINTR;
  if (n < 0) return worth_another_try(errno);
  pending.erase(pending.begin(), pending.begin() + n);
  if (!pending.empty()) client.ready = false;
  // An idle client must not keep the memory of its busiest moment.
  if (pending.empty()) pending.shrink_to_fit();
  return true;
}

// Reads once and sends at once: usually the kernel takes it all.
// False: the client has finished or the connection is broken.
bool read_some(Client& client, std::array<char, 65536>& scratch) {
  const ssize_t n = ::recv(client.fd.get(), scratch.data(), scratch.size(), 0);
  if (n < 0) client.ready = errno == EINTR;
  if (n < 0) return worth_another_try(errno);
  if (n == 0) return false;
  if (n < std::ssize(scratch) && !client.wary) client.ready = false;
  client.pending.assign(scratch.begin(), scratch.begin() + n);
  return write_some(client);
}

class Server {
 public:
  explicit Server(net::Fd listener);
  void run();  // until the listener is shut down

 private:
  const std::vector<epoll_event>& wait();
  int rest_left() const;
  bool accept_clients();
  void add(net::Fd fd);
  void attend(const epoll_event& event);
  bool watch(const Client& client, std::uint32_t told);
  void drop(int fd);
  bool tell(Key key, std::uint32_t& told, std::uint32_t interest);

  net::Fd listener_;
  Clock::time_point rest_until_{};  // until then the listener is not watched
  std::map<int, Client> clients_;   // by descriptor
  net::Fd epoll_;                   // the kernel's list
  std::uint32_t listening_ = 0;     // the listener's interest, as last told
  std::uint32_t generation_ = 0;    // of the client that came last
  std::vector<epoll_event> ready_;
  std::vector<epoll_event> again_;  // clients still ready after their turn
  std::array<char, 65536> scratch_;
};

Server::Server(net::Fd listener)
    : listener_(std::move(listener)),
      epoll_(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
  net::set_nonblocking(listener_);
}

void Server::run() {
  bool listening = true;
  while (listening) {
    for (const epoll_event& event : wait()) {
      if (std::bit_cast<Key>(event.data.u64).fd == listener_.get()) {
        listening = accept_clients();
      } else {
        attend(event);
      }
    }
  }
}

// The only place where the thread sleeps. Returns the descriptors on which a
// call is worth a try, those still ready first. So one may stand there twice,
// and at its second turn be gone, with another client behind its number.
const std::vector<epoll_event>& Server::wait() {
  ready_.clear();
  ready_.swap(again_);
  int rest = rest_left();
  if (!tell({listener_.get(), 0}, listening_, rest >= 0 ? 0U : EPOLLIN)) {
    rest = static_cast<int>(rest_limit.count());  // then it is told again
  }
  if (!ready_.empty()) rest = 0;
  epoll_event events[events_a_round];
  const int n = ::epoll_wait(epoll_.get(), events, events_a_round, rest);
  if (n < 0) net::rest_or_throw("epoll_wait");
  if (n > 0) ready_.insert(ready_.end(), events, events + n);
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
  listening_ = EPOLLET;  // told again in wait(), it is reported again
  return net::is_listening(listener_);
}

void Server::add(net::Fd fd) {
  const int number = fd.get();
  Client& client = clients_[number] = {std::move(fd), {}, ++generation_};
  if (!watch(client, 0)) drop(number);  // the kernel's list is full
}

void Server::attend(const epoll_event& event) {
  const auto [fd, generation] = std::bit_cast<Key>(event.data.u64);
  const auto found = clients_.find(fd);
  if (found == clients_.end()) return;
  Client& client = found->second;
  if (client.generation != generation) return;
  if ((event.events & ~(EPOLLIN | EPOLLOUT)) != 0) client.wary = true;
  if (event.events == (client.pending.empty() ? EPOLLOUT : EPOLLIN)) return;
  if (event.events != 0 && client.ready) return;  // it stands in again_
  client.ready = true;
  bool alive = true;
  for (int i = 0; i < tries_a_turn && alive && client.ready; ++i) {
    alive = client.pending.empty() ? read_some(client, scratch_)
                                   : write_some(client);
  }
  if (!alive) {
    drop(fd);
  } else if (client.ready) {
    again_.push_back({0, event.data});
  } else if (client.wary && client.pending.empty()) {
    // At an urgent byte EAGAIN may mean a signal: ask for another report.
    if (!watch(client, EPOLLET)) drop(fd);
  }
}

// A client is waited for in both directions, always. Told before, it is told,
// and reported, again: but not for an urgent byte, which nothing may use up.
bool Server::watch(const Client& client, std::uint32_t told) {
  return tell({client.fd.get(), client.generation}, told,
              EPOLLIN | EPOLLOUT | EPOLLRDHUP | (told == 0 ? EPOLLPRI : 0U));
}

void Server::drop(int fd) {
  clients_.erase(fd);
  rest_until_ = {};  // there is a descriptor for the next one now
}

// The only place that tells the kernel. An interest of 0 has no entry there.
// False: the kernel has not taken it.
bool Server::tell(Key key, std::uint32_t& told, std::uint32_t interest) {
  if (interest == told) return true;
  int change = EPOLL_CTL_MOD;
  if (told == 0) change = EPOLL_CTL_ADD;
  if (interest == 0) change = EPOLL_CTL_DEL;
  epoll_event event{interest | EPOLLET,
                    {.u64 = std::bit_cast<std::uint64_t>(key)}};
  if (::epoll_ctl(epoll_.get(), change, key.fd, &event) < 0) return false;
  told = interest;
  return true;
}

}  // namespace

void serve(net::Fd listener) { Server(std::move(listener)).run(); }
