#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/fd.hpp"
#include "common/socket.hpp"

// Finding a server on the local network without knowing its port: a question
// to everybody, and an answer to the one who asked. Each is one UDP datagram.
// The answer is the shorter one, so that nobody can have a server send more to
// a third than was sent to it.

inline constexpr std::string_view question = "where is echo? (discovery 1)";

// "echo is at port 8080".
std::string answer(std::uint16_t port);

// The port in an answer, or nothing if it is none.
std::optional<std::uint16_t> port_in(std::string_view datagram);

// Where both sides meet unless told otherwise: the broadcast address of the
// network that is our own machine, 127.0.0.0/8, which no datagram leaves.
inline constexpr const char* loopback_broadcast = "127.255.255.255";
inline constexpr std::uint16_t discovery_port = 8079;

// Answers for a server. On a loopback address only the machine itself is
// heard, because the socket is bound to 127.255.255.255; else everybody.
class Discovery {
 public:
  // The server's address, and the UDP port to listen on; 0 lets the kernel
  // choose. Throws std::system_error, and std::runtime_error for IPv6, which
  // has no broadcast.
  Discovery(const net::Address& server, std::uint16_t port);

  // Readable when a datagram has come.
  int fd() const { return socket_.get(); }

  // "127.255.255.255:8079".
  std::string where() const { return net::local_address(socket_).text(); }

  // Answers the questions that have come, some of them at a time.
  void take();

 private:
  void send_answer(const net::Address& to) const;

  std::string answer_;
  in_addr host_;  // 0.0.0.0: whichever the kernel chooses
  net::Fd socket_;
};
