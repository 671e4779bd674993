#include "chapters/06-other-fds/discovery.hpp"

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <charconv>
#include <cstring>
#include <stdexcept>

#include "common/error.hpp"

namespace {

constexpr std::string_view prefix = "echo is at port ";

constexpr int datagrams_a_round = 16;

const sockaddr_in& ipv4(const net::Address& address) {
  if (address.storage.ss_family != AF_INET) {
    throw std::runtime_error("discovery: " + address.text() +
                             " is not IPv4, and only IPv4 has broadcasts");
  }
  return reinterpret_cast<const sockaddr_in&>(address.storage);
}

const char* listening_host(const net::Address& server) {
  const bool loopback =
      ntohl(ipv4(server).sin_addr.s_addr) >> IN_CLASSA_NSHIFT == IN_LOOPBACKNET;
  return loopback ? loopback_broadcast : "0.0.0.0";
}

void let_others_share(const net::Fd& socket) {
  const int on = 1;
  net::check(
      ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on),
      "setsockopt SO_REUSEADDR");
}

// Several servers may share a port: each hears a broadcast. But a port that the
// kernel chooses is to be nobody else's, so it is shared only when it is bound.
net::Fd bound_to(const net::Address& address) {
  net::Fd socket(net::check(
      ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket",
      address.text()));
  const bool any_port = ipv4(address).sin_port == 0;
  if (!any_port) let_others_share(socket);
  net::check(::bind(socket.get(), address.get(), address.length), "bind",
             address.text());
  if (any_port) let_others_share(socket);
  return socket;
}

}  // namespace

std::string answer(std::uint16_t port) {
  return std::string(prefix) + std::to_string(port);
}

std::optional<std::uint16_t> port_in(std::string_view datagram) {
  if (!datagram.starts_with(prefix)) return {};
  datagram.remove_prefix(prefix.size());
  std::uint16_t port = 0;
  const char* const end = datagram.data() + datagram.size();
  const auto [stopped, error] = std::from_chars(datagram.data(), end, port);
  if (error != std::errc{} || stopped != end || port == 0) return {};
  return port;
}

Discovery::Discovery(const net::Address& server, std::uint16_t port)
    : answer_(answer(ntohs(ipv4(server).sin_port))),
      host_(ipv4(server).sin_addr),
      socket_(bound_to(net::resolve(listening_host(server), port))) {}

void Discovery::take() {
  std::array<char, question.size()> words;
  for (int i = 0; i < datagrams_a_round; ++i) {
    net::Address from;
    from.length = sizeof from.storage;
    // With MSG_TRUNC the result is the whole length, of what was cut too.
    const ssize_t n =
        ::recvfrom(socket_.get(), words.data(), words.size(), MSG_TRUNC,
                   reinterpret_cast<sockaddr*>(&from.storage), &from.length);
    if (n < 0) return;
    const bool asked = n == std::ssize(words) &&
                       question == std::string_view(words.data(), words.size());
    if (!asked) continue;
    // Not missed if it is lost: whoever asked asks again.
    send_answer(from);
  }
}

// From the server's own address: where the answer comes from is part of it, and
// the kernel would choose another of this machine's.
void Discovery::send_answer(const net::Address& to) const {
  iovec bytes{const_cast<char*>(answer_.data()), answer_.size()};
  in_pktinfo source{};
  source.ipi_spec_dst = host_;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof source)> control{};
  msghdr message{};
  message.msg_name = const_cast<sockaddr*>(to.get());
  message.msg_namelen = to.length;
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = IPPROTO_IP;
  head->cmsg_type = IP_PKTINFO;
  head->cmsg_len = CMSG_LEN(sizeof source);
  std::memcpy(CMSG_DATA(head), &source, sizeof source);
  ::sendmsg(socket_.get(), &message, 0);
}
