// Fill: a read that parks the goroutine where the call would say EAGAIN.

#pragma once

#include <cstddef>
#include <span>
#include <system_error>

#include "common/error.hpp"
#include "common/testing/todo.hpp"

// What the runtime knows of a descriptor and its input. It is a non-blocking
// stream socket, and the kernel reports edges on it.
struct Descriptor {
  int fd = -1;
  bool ready = true;    // a call is worth a try
  bool wary = false;    // more than bytes may stand behind a short read
  bool closed = false;  // by us; the number may be somebody else's by now
};

// Stops the goroutine that calls it until `ready` or `closed` is set; returns
// at once if one of them is. The netpoller sets `ready` at each edge, and with
// it `wary`, for good, if an end was reported. Nobody but the reader takes
// `ready` back.
void park(Descriptor& descriptor);

// n bytes were read, or the error is set.
struct Result {
  std::size_t n = 0;
  std::error_code error;
};

// The error of a call whose descriptor was closed before it or during it.
inline const std::error_code closed =
    std::make_error_code(std::errc::operation_canceled);

// Reads with ::recv into the buffer. Gets at least one byte, or net::eof() at
// the end of the stream, or `closed`, or the error of the call.
//
// - The goroutine parks when no call is worth a try, and only then.
// - A call that could only say EAGAIN is not made. The last one may have shown
//   it: by EAGAIN, or because it brought less than it was asked for and nobody
//   is wary.
// - Nothing else shows it. Who reads on after the end, or after an error, does
//   not wait for an edge: there will be none.
// - Once the descriptor is closed no call is made, whatever else is set.
// - An empty buffer gets 0 bytes, without a call and without parking. Of a
//   closed descriptor it gets `closed`.
// - A signal that interrupts a call changes nothing.
inline Result read_some(Descriptor& descriptor, std::span<char> buffer) {
  TODO("try, park where it is in vain, and try again");
}
