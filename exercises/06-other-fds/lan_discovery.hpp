// Write: find a server on the local network by UDP broadcast, both sides.

#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/todo.hpp"

// What is said on the wire, a datagram each, with nothing before or behind it:
//
//   who looks for the server, to all:   where is echo?
//   the server, to the one who asked:   echo is at port 8080
//
// The port is TCP's: a decimal number from 1 to 65535 without leading zeros.
inline constexpr std::string_view question = "where is echo?";
inline constexpr std::string_view answer_start = "echo is at port ";

// How long one question is given before the next.
inline constexpr std::chrono::milliseconds ask_again{100};

// The server's side: a UDP socket that hears what is broadcast to this port; 0
// lets the kernel choose one. Throws std::system_error.
inline net::Fd open_responder(std::uint16_t port) {
  TODO("a socket, and the address to bind it to");
}

// Called by a level-triggered loop when the socket has been reported. Each
// question gets one answer, whatever else comes gets none. Looks at 64
// datagrams at most, waits for none, and throws nothing: an error concerns one
// datagram.
inline void answer(const net::Fd& responder, std::uint16_t tcp_port) {
  TODO("read, compare, and answer to whom?");
}

// The other side: asks by broadcast to this address, such as 127.255.255.255:N,
// at once and then every 100 ms. Returns the address of who answers first, with
// the port from its answer; nothing if there is no answer within the limit.
//
// - What is no answer is ignored. It prolongs nothing and ends nothing, however
//   much of it comes; and the next question is not late for it.
// - A question that cannot be sent is a lost one. An error that the socket
//   reports is one of a datagram, and passes.
// - While nothing comes it sleeps.
inline std::optional<net::Address> discover(const net::Address& broadcast,
                                            std::chrono::milliseconds limit) {
  TODO("two deadlines: the next question's and your own");
}
