#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <system_error>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "rt/time.hpp"

// Input and output that look as if they blocked. They park the goroutine and
// not the thread. All of it belongs to the thread of rt::run and throws
// std::logic_error outside of it; what fails is a value.
//
// A goroutine may read while another writes. Two that read (or two that write)
// take turns, in the order in which they came.
namespace rt {

// Errors that are no errors of the kernel.
enum class Error {
  Closed = 1,        // this end was closed, or run is ending
  DeadlineExceeded,  // the time was up first
};
std::error_code make_error_code(Error error);

// End of stream: the peer has finished. Source: io.EOF (io/io.go).
inline const std::error_code eof = net::eof();
inline constexpr Error closed = Error::Closed;
inline constexpr Error deadline_exceeded = Error::DeadlineExceeded;

// What an I/O call gives: n bytes were moved, and then the error happened, if
// one is set.
struct Result {
  std::size_t n = 0;
  std::error_code error;
};

struct Descriptor;  // of the engine

// Owns a descriptor that goroutines can wait for. Empty after a move, and then
// every call that can give an error gives `closed`.
class Pollable {
 public:
  Pollable() = default;
  explicit Pollable(std::shared_ptr<Descriptor> descriptor);
  Pollable(Pollable&&) noexcept = default;
  Pollable& operator=(Pollable&& other) noexcept;
  ~Pollable();  // closes

  // Gives the number back to the kernel and wakes whoever waits here with
  // `closed`. Gives `closed` if it was closed before.
  std::error_code close();

  // The number, -1 when closed. Still owned here, and non-blocking.
  int fd() const;

 protected:
  std::shared_ptr<Descriptor> descriptor_;
};

// A connection of bytes: a TCP socket.
class Conn : public Pollable {
 public:
  Conn() = default;
  using Pollable::Pollable;

  // Parks until there is something; gets at least 1 byte, or `eof`, or another
  // error. An empty buffer gets 0 bytes at once.
  Result read(std::span<char> buffer) const;

  // Parks until the kernel has taken every byte. With an error, n bytes were
  // taken before it. An empty buffer is written at once.
  Result write(std::span<const char> bytes) const;

  // Says that no more will be written (shutdown(2)); reading goes on.
  std::error_code close_write() const;
};

struct Dialed {
  Conn conn;
  std::error_code error;
};

// Connects, with TCP_NODELAY. deadline_exceeded if the answer takes longer.
Dialed dial(const net::Address& address, TimePoint deadline = never);

struct Accepted {
  Conn conn;
  std::error_code error;
};

struct Listening;

class Listener : public Pollable {
 public:
  Listener() = default;
  using Pollable::Pollable;

  // Takes a socket that listens already.
  static Listening adopt(net::Fd socket);

  // Parks until somebody connects. `closed` after close, and also once
  // somebody else has shut the socket down. If there is no descriptor for the
  // connection (EMFILE), it still waits; if epoll takes no more (ENOSPC), it
  // has been closed.
  Accepted accept() const;

  // The address it is bound to. Throws std::system_error.
  net::Address address() const;
};

struct Listening {
  Listener listener;
  std::error_code error;
};

// A socket that listens: see net::listen_on.
Listening listen(const net::Address& address);

struct Received {
  std::size_t n = 0;
  net::Address from;
  std::error_code error;
};

struct PacketListening;

// A UDP socket. One call moves one datagram, which may be empty.
class PacketConn : public Pollable {
 public:
  PacketConn() = default;
  using Pollable::Pollable;

  // What does not fit into the buffer is lost (recvfrom(2), MSG_TRUNC).
  Received read_from(std::span<char> buffer) const;
  Result write_to(std::span<const char> bytes,
                  const net::Address& address) const;
  net::Address address() const;
};

struct PacketListening {
  PacketConn conn;
  std::error_code error;
};

// A UDP socket bound to the address; port 0 lets the kernel choose.
PacketListening listen_packet(const net::Address& address);

struct Adopted;

// Any other descriptor that epoll takes: a pipe, a terminal, an eventfd.
class File : public Pollable {
 public:
  File() = default;
  using Pollable::Pollable;

  // Makes it non-blocking, and with it all duplicates. EPERM for a regular
  // file: it is always ready (epoll_ctl(2)), so there is nothing to wait for.
  static Adopted adopt(net::Fd fd);

  // As Conn's.
  Result read(std::span<char> buffer) const;
  Result write(std::span<const char> bytes) const;
};

struct Adopted {
  File file;
  std::error_code error;
};

struct Pipe {
  File reader;
  File writer;
  std::error_code error;
};

Pipe pipe();

struct Counted {
  std::uint64_t count = 0;
  std::error_code error;
};

// An eventfd: other threads wake a goroutine.
class Event {
 public:
  Event();  // throws std::system_error

  // From any thread, while the Event lives, also when run has ended.
  // Notifications that nobody has waited for add up.
  void notify() const;

  // Parks until there has been at least one; how many there were.
  Counted wait() const;

 private:
  // A number of its own: the file's is given back when run ends, and other
  // threads may notify later.
  net::Fd counter_;
  File file_;
};

}  // namespace rt

template <>
struct std::is_error_code_enum<rt::Error> : std::true_type {};
