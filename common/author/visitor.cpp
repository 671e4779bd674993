#include "common/author/visitor.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "common/error.hpp"

namespace author {
namespace {

using namespace std::chrono_literals;

// Long enough for a server that rests 100 ms at every third call.
constexpr auto patience = 20s;

void set(const net::Fd& socket, int level, int option, int value) {
  net::check(::setsockopt(socket.get(), level, option, &value, sizeof value),
             "setsockopt");
}

net::Fd connect(const net::Address& server, Visitor::Connection connection) {
  net::Fd socket(net::check(
      ::socket(server.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0),
      "socket"));
  if (connection == Visitor::Connection::narrow) {
    // The buffer for sending is sized by the segments, and they by both ends.
    set(socket, IPPROTO_TCP, TCP_MAXSEG, 1400);
    set(socket, SOL_SOCKET, SO_RCVBUF, 16384);
  }
  net::check(::connect(socket.get(), server.get(), server.length), "connect");
  net::set_nonblocking(socket);
  return socket;
}

}  // namespace

Visitor::Visitor(const net::Address& server, std::string_view bytes,
                 Connection connection)
    : bytes_(bytes) {
  try {
    socket_ = connect(server, connection);
  } catch (const std::system_error&) {
    fate_ = Fate::refused;
  }
}

bool Visitor::exchange(std::size_t n) {
  while (fate_ == Fate::whole && got_ < n) {
    const short events = sent_ < n && !broken_ ? POLLIN | POLLOUT : POLLIN;
    if (!move(events, n, patience)) fate_ = Fate::stuck;
  }
  return fate_ == Fate::whole;
}

void Visitor::send_only(std::size_t n) {
  while (fate_ == Fate::whole && !broken_ && sent_ < n &&
         move(POLLOUT, n, 20ms)) {
  }
}

// False: nothing could be moved within the limit.
bool Visitor::move(short events, std::size_t n,
                   std::chrono::milliseconds limit) {
  pollfd entry{socket_.get(), events, 0};
  if (net::check(::poll(&entry, 1, static_cast<int>(limit.count())), "poll") ==
      0) {
    return false;
  }
  if ((entry.revents & POLLOUT) != 0) send(n);
  if ((entry.revents & ~POLLOUT) != 0) receive();
  return true;
}

void Visitor::send(std::size_t n) {
  const std::string_view rest = bytes_.substr(sent_, n - sent_);
  const ssize_t sent =
      ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
  if (sent >= 0) {
    sent_ += static_cast<std::size_t>(sent);
  } else if (errno != EAGAIN) {
    broken_ = true;  // what came before the end is still to be read
  }
}

void Visitor::receive() {
  std::array<char, 65536> block;
  const ssize_t n = ::recv(socket_.get(), block.data(), block.size(), 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    fate_ = Fate::early;
    return;
  }
  const std::string_view come(block.data(), static_cast<std::size_t>(n));
  if (got_ + come.size() > sent_ || come != bytes_.substr(got_, come.size())) {
    fate_ = Fate::wrong;
  }
  got_ += come.size();
}

void Visitor::finish() { ::shutdown(socket_.get(), SHUT_WR); }

void Visitor::reset() {
  const linger at_once{1, 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  leave();
}

bool Visitor::has_news() const {
  pollfd entry{socket_.get(), POLLIN, 0};
  return net::check(::poll(&entry, 1, 0), "poll") == 1;
}

bool Visitor::has_end() const {
  char byte = 0;
  return has_news() && ::recv(socket_.get(), &byte, 1, MSG_PEEK) <= 0;
}

}  // namespace author
