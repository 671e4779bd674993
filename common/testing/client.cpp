#include "common/testing/client.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "common/error.hpp"

namespace testing {
namespace {

// In blocks: byte by byte, a large answer would take seconds.
using Block = std::array<char, 65536>;

std::string line(std::size_t i) {
  return "client " + std::to_string(i) + " was here\n";
}

}  // namespace

std::string pattern(std::size_t n, std::uint32_t seed) {
  std::string bytes(n, '\0');
  std::uint32_t x = seed * 2654435761U + 1;
  for (char& byte : bytes) {
    x = x * 1664525U + 1013904223U;
    byte = static_cast<char>(x >> 24);
  }
  return bytes;
}

Client::Client(const net::Address& server, std::chrono::milliseconds limit)
    : limit_(limit),
      socket_(
          net::check(::socket(server.get()->sa_family,
                              SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
                     "socket")) {
  const int at_once = 1;
  net::check(::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &at_once,
                          sizeof at_once),
             "setsockopt TCP_NODELAY");
  if (::connect(socket_.get(), server.get(), server.length) == 0) return;
  if (errno != EINPROGRESS) net::throw_errno("connect", server.text());
  wait_for(POLLOUT, "the connection");
  socklen_t size = sizeof errno;
  net::check(::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &errno, &size),
             "getsockopt SO_ERROR");
  if (errno != 0) net::throw_errno("connect", server.text());
}

Client::Client(net::Fd connection, std::chrono::milliseconds limit)
    : limit_(limit), socket_(std::move(connection)) {
  net::set_nonblocking(socket_);
}

short Client::wait_for(short events, const char* what) {
  const auto deadline = Clock::now() + limit_;
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd entry{socket_.get(), events, 0};
    const int n = ::poll(
        &entry, 1, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (n > 0) return entry.revents;
    if (n == 0) {
      throw TimedOut("client waited " + std::to_string(limit_.count()) +
                     " ms for " + what);
    }
    if (errno != EINTR) net::throw_errno("poll");
  }
}

void Client::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      wait_for(POLLOUT, "the server to take more bytes");
    } else {
      net::throw_errno("send");
    }
  }
}

std::size_t Client::send_until_full(std::size_t most,
                                    std::chrono::milliseconds calm) {
  const std::string bytes = pattern(most);
  std::size_t sent = 0;
  while (sent < most) {
    const ssize_t n =
        ::send(socket_.get(), bytes.data() + sent, most - sent, MSG_NOSIGNAL);
    if (n >= 0) {
      sent += static_cast<std::size_t>(n);
      continue;
    }
    if (errno != EAGAIN) net::throw_errno("send");
    pollfd entry{socket_.get(), POLLOUT, 0};
    if (net::check(::poll(&entry, 1, static_cast<int>(calm.count())), "poll") ==
        0) {
      break;
    }
  }
  return sent;
}

std::string Client::receive(std::size_t n) {
  std::string bytes;
  Block block;
  while (bytes.size() < n) {
    const std::size_t want = std::min(block.size(), n - bytes.size());
    const ssize_t got = ::recv(socket_.get(), block.data(), want, 0);
    if (got > 0) {
      bytes.append(block.data(), static_cast<std::size_t>(got));
    } else if (got == 0) {
      throw EndedEarly("end of stream after " + std::to_string(bytes.size()) +
                       " of " + std::to_string(n) + " bytes");
    } else if (errno == EAGAIN) {
      wait_for(POLLIN, "bytes from the server");
    } else {
      net::throw_errno("recv");
    }
  }
  return bytes;
}

std::string Client::receive_all() {
  std::string bytes;
  Block block;
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), block.data(), block.size(), 0);
    if (n == 0) return bytes;
    if (n > 0) {
      bytes.append(block.data(), static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      wait_for(POLLIN, "the end of the stream");
    } else {
      net::throw_errno("recv");
    }
  }
}

std::string Client::exchange(std::string_view bytes) {
  std::string back;
  Block block;
  const std::size_t n = bytes.size();
  while (back.size() < n) {
    const short events = bytes.empty() ? POLLIN : POLLIN | POLLOUT;
    const short ready = wait_for(events, "the server to read or write");
    if ((ready & POLLOUT) != 0 && !bytes.empty()) {
      const ssize_t sent = net::check(
          ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
          "send");
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    if ((ready & (POLLIN | POLLHUP | POLLERR)) != 0) {
      const ssize_t got = net::check(
          ::recv(socket_.get(), block.data(), block.size(), 0), "recv");
      if (got == 0) throw EndedEarly("end of stream in an exchange");
      back.append(block.data(), static_cast<std::size_t>(got));
    }
  }
  return back;
}

std::string Client::echo(std::string_view bytes) {
  send(bytes);
  return receive(bytes.size());
}

void Client::finish() {
  net::check(::shutdown(socket_.get(), SHUT_WR), "shutdown");
}

void Client::reset() {
  const linger at_once{1, 0};
  net::check(::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &at_once,
                          sizeof at_once),
             "setsockopt SO_LINGER");
  close();
}

bool Client::ended() {
  Block block;
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), block.data(), block.size(), 0);
    if (n == 0 || (n < 0 && errno == ECONNRESET)) return true;
    if (n > 0) return false;
    if (errno != EAGAIN) net::throw_errno("recv");
    wait_for(POLLIN, "the server to end the connection");
  }
}

std::vector<Client> connect_clients(const net::Address& server, std::size_t n,
                                    std::chrono::milliseconds limit) {
  std::vector<Client> clients;
  clients.reserve(n);
  for (std::size_t i = 0; i < n; ++i) clients.emplace_back(server, limit);
  return clients;
}

void echo_all(std::vector<Client>& clients) {
  for (std::size_t i = 0; i < clients.size(); ++i) clients[i].send(line(i));
  for (std::size_t i = 0; i < clients.size(); ++i) {
    const std::string expected = line(i);
    const std::string got = clients[i].receive(expected.size());
    if (got != expected) {
      throw std::runtime_error("client " + std::to_string(i) + " got '" + got +
                               "'");
    }
  }
}

}  // namespace testing
