#include "common/tools/load.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"

namespace net {

void Histogram::add(std::chrono::nanoseconds latency) {
  const auto value = static_cast<std::uint64_t>(latency.count());
  // The leading bit and the five below it name the bucket.
  const int shift =
      std::max(0, static_cast<int>(std::bit_width(value)) - fine_bits - 1);
  const std::size_t bucket =
      (static_cast<std::size_t>(shift) << fine_bits) + (value >> shift);
  ++counts_[bucket];
  ++sum_;
  most_ = std::max(most_, latency);
}

std::chrono::nanoseconds Histogram::quantile(double share) const {
  const auto wanted = std::max<std::uint64_t>(
      1,
      static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(sum_))));
  std::uint64_t passed = 0;
  for (std::size_t i = 0; i < buckets; ++i) {
    passed += counts_[i];
    if (passed < wanted) continue;
    const std::size_t shift = i < (2U << fine_bits) ? 0 : (i >> fine_bits) - 1;
    const std::uint64_t last =
        ((i - (shift << fine_bits) + 1) << shift) - 1;  // in this bucket
    return std::min(most_,
                    std::chrono::nanoseconds(static_cast<std::int64_t>(last)));
  }
  return most_;
}

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// How many bytes one connection sends or receives before the next has a turn.
constexpr std::size_t turn = 65536;

// More than this at once would overflow the queue of a listener with the
// default limit of 4,096 (listen(2)) and wait a second for the next SYN.
constexpr std::uint32_t connecting_at_once = 512;

// The bytes of all connections: a stretch without order that repeats every
// `period` bytes, a prime, so that no length anybody works with divides it.
// Connection i begins at a place of its own.
class Pattern {
 public:
  static constexpr std::size_t period = 65521;

  Pattern() : bytes_(period + turn) {
    std::uint64_t state = 0x9e3779b97f4a7c15;
    for (std::size_t i = 0; i < period; ++i) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      bytes_[i] = static_cast<char>(state >> 32);
    }
    for (std::size_t i = period; i < bytes_.size(); ++i) {
      bytes_[i] = bytes_[i - period];
    }
  }

  // At least `turn` bytes of connection i from a position in its stream on.
  const char* at(std::size_t i, std::uint64_t position) const {
    return bytes_.data() + (position + i * 977) % period;
  }

 private:
  std::vector<char> bytes_;
};

// A connection is connecting, busy (requests are in flight), at rest, or
// closed: then it has no descriptor.
struct Connection {
  Fd fd;
  std::size_t number = 0;
  bool idle = false;  // one echo, then silence
  bool connected = false;
  bool busy = false;
  bool want_write = false;     // what epoll was last told
  std::uint64_t issued = 0;    // requests
  std::uint64_t answered = 0;  // requests
  std::uint64_t sent = 0;      // bytes
  std::uint64_t received = 0;  // bytes
  Clock::time_point moved;     // when it last connected or a byte went or came
  std::vector<Clock::time_point> issued_at;  // by request, modulo its size
};

std::string hex(char byte) {
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "0x%02x",
                static_cast<unsigned>(static_cast<unsigned char>(byte)));
  return text.data();
}

// Room for so many connections and a few other descriptors.
void raise_descriptor_limit(std::uint64_t connections) {
  rlimit limit{};
  check(::getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
  const rlim_t wanted = connections + 64;
  if (limit.rlim_cur >= wanted) return;
  if (limit.rlim_max < wanted) {
    throw std::runtime_error(std::to_string(connections) +
                             " connections, but the limit is " +
                             std::to_string(limit.rlim_max) + " descriptors");
  }
  limit.rlim_cur = limit.rlim_max;
  check(::setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
}

class Load {
 public:
  Load(const LoadOptions& options,
       const std::function<void(const LoadReport&)>& progress);
  LoadReport run();

 private:
  void connect_more();
  void open(Connection& connection);
  void round();
  void attend(Connection& connection, std::uint32_t events);
  void finish_connect(Connection& connection);
  void issue(Connection& connection);
  bool may_issue(const Connection& connection) const;
  void send_some(Connection& connection);
  void receive_some(Connection& connection);
  bool right(Connection& connection, std::size_t n);
  void complete(Connection& connection);
  void watch(Connection& connection, bool want_write);
  void close(Connection& connection);
  void fail(Connection& connection, std::uint32_t& kind,
            const std::string& why);
  void look_at_the_clock();
  void give_up_on_the_silent();

  LoadOptions options_;
  std::function<void(const LoadReport&)> progress_;
  Address server_;
  Fd epoll_;
  Pattern pattern_;
  std::vector<Connection> connections_;  // the idle ones first
  std::vector<char> scratch_;
  LoadReport report_;
  std::size_t opened_ = 0;      // connections for which connect was called
  std::size_t connecting_ = 0;  // connections
  std::size_t busy_ = 0;        // connections
  bool reached_ = false;        // some connect has succeeded
  bool driving_ = false;        // connecting is over, the clock runs
  bool stopping_ = false;       // no further requests
  std::uint64_t issued_ = 0;    // requests, those of idle ones not counted
  Clock::time_point now_ = Clock::now();
  Clock::time_point begun_ = now_;
  Clock::time_point looked_ = now_;  // for the silent
  Clock::time_point told_ = now_;
};

Load::Load(const LoadOptions& options,
           const std::function<void(const LoadReport&)>& progress)
    : options_(options),
      progress_(progress),
      server_(resolve(options.host, options.port)),
      epoll_(check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      connections_(std::size_t{options.idle} + options.connections),
      scratch_(turn) {
  for (std::size_t i = 0; i < connections_.size(); ++i) {
    connections_[i].number = i;
    connections_[i].idle = i < options.idle;
    connections_[i].issued_at.resize(i < options.idle ? 1 : options.depth);
  }
}

LoadReport Load::run() {
  connect_more();
  while (connecting_ > 0 || busy_ > 0) round();
  if (options_.connected) options_.connected();
  driving_ = true;
  begun_ = told_ = now_ = Clock::now();
  for (Connection& connection : connections_) {
    if (!connection.fd || connection.idle) continue;
    issue(connection);
    send_some(connection);
  }
  while (busy_ > 0) round();
  return std::move(report_);
}

void Load::connect_more() {
  while (opened_ < connections_.size() && connecting_ < connecting_at_once) {
    open(connections_[opened_++]);
  }
}

void Load::open(Connection& connection) {
  connection.fd =
      Fd(check(::socket(server_.get()->sa_family,
                        SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
               "socket"));
  const int on = 1;
  check(::setsockopt(connection.fd.get(), IPPROTO_TCP, TCP_NODELAY, &on,
                     sizeof on),
        "setsockopt TCP_NODELAY");
  connection.moved = now_;
  ++connecting_;
  const int n = ::connect(connection.fd.get(), server_.get(), server_.length);
  if (n < 0 && errno != EINPROGRESS) {
    fail(connection, report_.errors.refused, std::strerror(errno));
    return;
  }
  // Not before connect: a fresh socket reports a hang-up.
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT;
  event.data.u64 = connection.number;
  check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection.fd.get(), &event),
        "epoll_ctl");
  connection.want_write = true;
}

void Load::round() {
  std::array<epoll_event, 256> events{};
  constexpr int limit_ms = 20;  // then the clock wants a look
  const int n = ::epoll_wait(epoll_.get(), events.data(),
                             static_cast<int>(events.size()), limit_ms);
  if (n < 0 && errno != EINTR) throw_errno("epoll_wait");
  now_ = Clock::now();
  for (int i = 0; i < n; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    attend(connections_[event.data.u64], event.events);
  }
  connect_more();
  look_at_the_clock();
}

void Load::attend(Connection& connection, std::uint32_t events) {
  if (!connection.connected) {
    finish_connect(connection);
  } else if ((events & ~std::uint32_t{EPOLLOUT}) != 0) {
    receive_some(connection);
  }
  if (connection.fd) send_some(connection);
}

void Load::finish_connect(Connection& connection) {
  int error = 0;
  socklen_t size = sizeof error;
  check(::getsockopt(connection.fd.get(), SOL_SOCKET, SO_ERROR, &error, &size),
        "getsockopt SO_ERROR");
  if (error != 0) {
    errno = error;
    fail(connection, report_.errors.refused, std::strerror(error));
    return;
  }
  connection.connected = reached_ = true;
  connection.moved = now_;
  --connecting_;
  issue(connection);
}

bool Load::may_issue(const Connection& connection) const {
  if (connection.idle) return connection.issued == 0;
  return driving_ && !stopping_ &&
         (options_.requests == 0 || issued_ < options_.requests);
}

void Load::issue(Connection& connection) {
  const std::size_t depth = connection.issued_at.size();
  while (connection.issued - connection.answered < depth &&
         may_issue(connection)) {
    // Silence is counted from the first request on.
    if (!connection.busy) connection.moved = now_;
    connection.issued_at[connection.issued++ % depth] = now_;
    issued_ += connection.idle ? 0 : 1;
    busy_ += connection.busy ? 0 : 1;
    connection.busy = true;
  }
}

void Load::send_some(Connection& connection) {
  const std::uint64_t due = connection.issued * options_.size;
  std::size_t budget = turn;
  while (connection.sent < due && budget > 0) {
    const auto most = std::min<std::uint64_t>(budget, due - connection.sent);
    const ssize_t n = ::send(connection.fd.get(),
                             pattern_.at(connection.number, connection.sent),
                             static_cast<std::size_t>(most), MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (n < 0) {
      fail(connection, report_.errors.reset, std::strerror(errno));
      return;
    }
    connection.sent += static_cast<std::uint64_t>(n);
    connection.moved = now_;
    budget -= static_cast<std::size_t>(n);
  }
  watch(connection, connection.sent < due);
}

void Load::receive_some(Connection& connection) {
  const ssize_t n =
      ::recv(connection.fd.get(), scratch_.data(), scratch_.size(), 0);
  now_ = Clock::now();
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    fail(connection, report_.errors.reset, std::strerror(errno));
  } else if (n == 0) {
    fail(connection, report_.errors.early_end,
         "end of stream after byte " + std::to_string(connection.received));
  } else if (right(connection, static_cast<std::size_t>(n))) {
    connection.received += static_cast<std::uint64_t>(n);
    connection.moved = now_;
    complete(connection);
  }
}

// False: something else came than was sent, and the connection has failed.
bool Load::right(Connection& connection, std::size_t n) {
  const char* const sent = pattern_.at(connection.number, connection.received);
  const auto expected = static_cast<std::size_t>(
      std::min<std::uint64_t>(n, connection.sent - connection.received));
  const auto [wrong, got] =
      std::mismatch(sent, sent + expected, scratch_.begin());
  if (wrong == sent + n) return true;
  const std::uint64_t place =
      connection.received + static_cast<std::uint64_t>(wrong - sent);
  fail(connection, report_.errors.wrong_byte,
       "byte " + std::to_string(place) + ": sent " +
           (wrong == sent + expected ? "nothing yet" : hex(*wrong)) + ", got " +
           hex(*got));
  return false;
}

// Books the requests that have come back in full, and issues the next.
void Load::complete(Connection& connection) {
  const std::uint64_t answered = connection.received / options_.size;
  for (; connection.answered < answered; ++connection.answered) {
    if (connection.idle) continue;
    report_.served += connection.answered == 0 ? 1 : 0;
    report_.latency.add(now_ -
                        connection.issued_at[connection.answered %
                                             connection.issued_at.size()]);
    ++report_.requests;
    report_.time = now_ - begun_;
  }
  issue(connection);
  if (connection.issued > connection.answered) return;
  busy_ -= connection.busy ? 1 : 0;
  connection.busy = false;
  if (!connection.idle) close(connection);  // there is nothing left to ask
}

void Load::watch(Connection& connection, bool want_write) {
  if (connection.want_write == want_write) return;
  connection.want_write = want_write;
  epoll_event event{};
  event.events = EPOLLIN | (want_write ? std::uint32_t{EPOLLOUT} : 0);
  event.data.u64 = connection.number;
  check(::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.fd.get(), &event),
        "epoll_ctl");
}

void Load::close(Connection& connection) {
  connecting_ -= connection.connected ? 0 : 1;
  busy_ -= connection.busy ? 1 : 0;
  connection.busy = false;
  connection.fd = Fd();
}

// With errno set if the kind is `refused`.
void Load::fail(Connection& connection, std::uint32_t& kind,
                const std::string& why) {
  if (&kind == &report_.errors.refused && !reached_) {
    throw_errno("connect", server_.text());
  }
  ++kind;
  if (report_.first_error.empty()) {
    report_.first_error =
        "connection " + std::to_string(connection.number) + ": " + why;
  }
  close(connection);
}

void Load::look_at_the_clock() {
  if (driving_ && options_.duration.count() > 0 &&
      now_ - begun_ >= options_.duration) {
    stopping_ = true;
  }
  if (now_ - looked_ >= options_.patience / 8) {
    looked_ = now_;
    give_up_on_the_silent();
  }
  if (progress_ && driving_ && now_ - told_ >= std::chrono::seconds(1)) {
    told_ = now_;
    report_.time = now_ - begun_;
    progress_(report_);
  }
}

void Load::give_up_on_the_silent() {
  for (Connection& connection : connections_) {
    const bool waiting = connection.busy || !connection.connected;
    if (connection.fd && waiting &&
        now_ - connection.moved > options_.patience) {
      fail(connection, report_.errors.timed_out,
           connection.connected ? "no answer" : "no connection");
    }
  }
}

}  // namespace

LoadReport run_load(const LoadOptions& options,
                    const std::function<void(const LoadReport&)>& progress) {
  if (options.duration.count() == 0 && options.requests == 0) {
    throw std::runtime_error("neither a time nor a number of requests to end");
  }
  raise_descriptor_limit(std::uint64_t{options.idle} + options.connections);
  return Load(options, progress).run();
}

}  // namespace net
