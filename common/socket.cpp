#include "common/socket.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "common/error.hpp"

namespace net {
namespace {

Fd stream_socket(const Address& address) {
  return Fd(
      check(::socket(address.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0),
            "socket", address.text()));
}

void set_option(const Fd& socket, int level, int option, const char* name) {
  const int on = 1;
  check(::setsockopt(socket.get(), level, option, &on, sizeof on),
        std::string("setsockopt ") + name);
}

}  // namespace

std::string Address::text() const {
  std::array<char, INET6_ADDRSTRLEN> host{};
  if (get()->sa_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, host.data(), host.size());
    return '[' + std::string(host.data()) +
           "]:" + std::to_string(ntohs(v6->sin6_port));
  }
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
  ::inet_ntop(AF_INET, &v4->sin_addr, host.data(), host.size());
  return std::string(host.data()) + ':' + std::to_string(ntohs(v4->sin_port));
}

Address resolve(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failure =
      ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failure != 0) {
    throw std::runtime_error("getaddrinfo " + host + ": " +
                             (failure == EAI_SYSTEM ? std::strerror(errno)
                                                    : ::gai_strerror(failure)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found,
                                                             ::freeaddrinfo);
  Address address;
  address.length = found->ai_addrlen;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  return address;
}

Fd listen_on(const Address& address) {
  Fd socket = stream_socket(address);
  set_option(socket, SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY");
  check(::bind(socket.get(), address.get(), address.length), "bind",
        address.text());
  check(::listen(socket.get(), SOMAXCONN), "listen", address.text());
  return socket;
}

Fd connect_to(const Address& address) {
  Fd socket = stream_socket(address);
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY");
  check(::connect(socket.get(), address.get(), address.length), "connect",
        address.text());
  return socket;
}

Address local_address(const Fd& socket) {
  Address address;
  address.length = sizeof address.storage;
  check(
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address.storage),
                    &address.length),
      "getsockname");
  return address;
}

bool is_listening(const Fd& socket) {
  int listening = 0;
  socklen_t size = sizeof listening;
  check(
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size),
      "getsockopt SO_ACCEPTCONN");
  return listening != 0;
}

void set_nonblocking(const Fd& fd) {
  const int flags = check(::fcntl(fd.get(), F_GETFL), "fcntl F_GETFL");
  check(::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK), "fcntl F_SETFL");
}

}  // namespace net
