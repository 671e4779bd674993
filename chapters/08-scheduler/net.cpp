// The public functions of rt/net.hpp.

#include "rt/net.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "chapters/08-scheduler/netpoll.hpp"
#include "chapters/08-scheduler/scheduler.hpp"
#include "common/error.hpp"

namespace rt {
namespace {

using State = Slot::State;
using Shared = std::shared_ptr<Descriptor>;

class ErrorCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "rt"; }
  std::string message(int number) const override {
    switch (static_cast<Error>(number)) {
      case Error::Closed:
        return "use of a closed descriptor";
      case Error::DeadlineExceeded:
        return "deadline exceeded";
    }
    return "unknown error";
  }
};

// One direction of a descriptor for the time of a call. It holds the
// descriptor: who waits must find it there when it was closed and dropped.
class Turn {
 public:
  Turn(Shared descriptor, Slot Descriptor::*direction, const char* what)
      : scheduler_(Scheduler::current()),
        descriptor_(std::move(descriptor)),
        slot_(descriptor_.get()->*direction),
        what_(what) {
    scheduler_.begin_call();
    if (slot_.taken && !descriptor_->closed) {
      slot_.turn.push(scheduler_.running());
      scheduler_.park("a turn to use", descriptor_->fd.get());
    }
    slot_.taken = true;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  ~Turn() {
    slot_.taken = !slot_.turn.empty();
    if (slot_.taken) scheduler_.ready(slot_.turn.pop());
  }

  // Makes the call until it does not say EAGAIN, and waits before each time
  // that would be in vain. Gives its result, or -1 and the error.
  template <typename Call>
  std::pair<ssize_t, std::error_code> attempt(Call call,
                                              TimePoint deadline = never) {
    for (;;) {
      if (const std::error_code error = wait(deadline)) return {-1, error};
      const ssize_t n = call(descriptor_->fd.get());
      if (n >= 0) return {n, {}};
      if (errno == EAGAIN) {
        used_up();
        if (descriptor_->urgent) scheduler_.netpoll().ask_again(*descriptor_);
      } else if (errno != EINTR) {
        return {-1, net::last_error()};
      }
    }
  }

  // The next call would say EAGAIN.
  void used_up() { slot_.state = State::Empty; }

  std::error_code wait(TimePoint deadline) {
    return scheduler_.wait(*descriptor_, slot_, what_, deadline);
  }

  const Descriptor& descriptor() const { return *descriptor_; }

 private:
  Scheduler& scheduler_;
  Shared descriptor_;
  Slot& slot_;
  const char* what_;
};

// Moving no bytes needs no call.
Result nothing(const Descriptor& descriptor) {
  if (descriptor.closed) return {0, closed};
  return {};
}

// A short read has emptied a stream, and what comes next is an edge; except in
// the cases that make wary, as in chapter 05.
template <typename Call>
Result read(const Shared& descriptor, std::span<char> buffer, Call call) {
  if (descriptor == nullptr) return {0, closed};
  if (buffer.empty()) return nothing(*descriptor);
  Turn turn(descriptor, &Descriptor::reading, "read");
  const auto [n, error] = turn.attempt(
      [&](int fd) { return call(fd, buffer.data(), buffer.size()); });
  if (error) return {0, error};
  if (n == 0) return {0, eof};
  const auto size = static_cast<std::size_t>(n);
  const Descriptor& from = turn.descriptor();
  if (size < buffer.size() && from.stream && !from.wary) turn.used_up();
  return {size, {}};
}

template <typename Call>
Result write(const Shared& descriptor, std::span<const char> bytes, Call call) {
  if (descriptor == nullptr) return {0, closed};
  if (bytes.empty()) return nothing(*descriptor);
  Turn turn(descriptor, &Descriptor::writing, "write");
  std::size_t written = 0;
  while (written < bytes.size()) {
    const auto rest = bytes.subspan(written);
    const auto [n, error] = turn.attempt(
        [&](int fd) { return call(fd, rest.data(), rest.size()); });
    if (error) return {written, error};
    written += static_cast<std::size_t>(n);
    if (written < bytes.size()) turn.used_up();
  }
  return {written, {}};
}

std::pair<Shared, std::error_code> adopt_fd(net::Fd fd, bool stream,
                                            State writing = State::Ready) {
  const auto descriptor = std::make_shared<Descriptor>();
  descriptor->fd = std::move(fd);
  descriptor->stream = stream;
  descriptor->writing.state = writing;
  Scheduler& scheduler = Scheduler::current();
  if (scheduler.ending()) {
    scheduler.begin_call();
    return {nullptr, closed};
  }
  const std::error_code error = scheduler.netpoll().add(*descriptor);
  if (error) return {nullptr, error};
  return {descriptor, {}};
}

// The fds of others may block: O_NONBLOCK belongs to what they refer to.
std::error_code unblock(const net::Fd& fd) {
  try {
    net::set_nonblocking(fd);
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

// An answer to a connect: its error, EINPROGRESS if there is none yet.
std::error_code answer(const net::Fd& socket) {
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) < 0) {
    return net::last_error();
  }
  if (error != 0) return {error, std::system_category()};
  net::Address peer;
  peer.length = sizeof peer.storage;
  if (::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&peer.storage),
                    &peer.length) < 0) {
    return {EINPROGRESS, std::system_category()};
  }
  return {};
}

// On a Unix socket a read also ends where descriptors were sent along, with
// more bytes behind (unix(7), SCM_RIGHTS).
bool short_read_empties(const net::Fd& socket) {
  int protocol = 0;
  socklen_t size = sizeof protocol;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_PROTOCOL, &protocol,
                      &size) == 0 &&
         protocol == IPPROTO_TCP;
}

net::Address address_of(const Shared& descriptor) {
  if (descriptor == nullptr) return net::local_address(net::Fd());
  return net::local_address(descriptor->fd);
}

}  // namespace

std::error_code make_error_code(Error error) {
  static const ErrorCategory category;
  return {static_cast<int>(error), category};
}

Pollable::Pollable(Shared descriptor) : descriptor_(std::move(descriptor)) {}

Pollable& Pollable::operator=(Pollable&& other) noexcept {
  if (this == &other) return *this;
  this->close();
  descriptor_ = std::move(other.descriptor_);
  return *this;
}

Pollable::~Pollable() { this->close(); }

std::error_code Pollable::close() {
  if (descriptor_ == nullptr || descriptor_->closed) return closed;
  Scheduler::current().evict(*descriptor_);
  return {};
}

int Pollable::fd() const {
  return descriptor_ == nullptr ? -1 : descriptor_->fd.get();
}

Result Conn::read(std::span<char> buffer) const {
  return rt::read(descriptor_, buffer, [](int fd, char* to, std::size_t size) {
    return ::recv(fd, to, size, 0);
  });
}

Result Conn::write(std::span<const char> bytes) const {
  return rt::write(descriptor_, bytes,
                   [](int fd, const char* from, std::size_t size) {
                     return ::send(fd, from, size, MSG_NOSIGNAL);
                   });
}

std::error_code Conn::close_write() const {
  if (fd() < 0) return closed;
  return ::shutdown(fd(), SHUT_WR) < 0 ? net::last_error() : std::error_code();
}

Dialed dial(const net::Address& address, TimePoint deadline) {
  net::Fd socket(::socket(address.storage.ss_family,
                          SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return {{}, net::last_error()};
  const int on = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const int n = ::connect(socket.get(), address.get(), address.length);
  const bool in_progress = n < 0 && (errno == EINPROGRESS || errno == EINTR);
  if (n < 0 && !in_progress) return {{}, net::last_error()};
  const bool stream = address.storage.ss_family != AF_UNIX;
  // Not before connect: an unconnected socket is reported as hung up. And what
  // is reported from here on is the answer, even before we wait for it.
  const auto [descriptor, error] = adopt_fd(
      std::move(socket), stream, in_progress ? State::Empty : State::Ready);
  if (error) return {{}, error};
  Conn conn(descriptor);
  if (!in_progress) return {std::move(conn), {}};
  Turn turn(descriptor, &Descriptor::writing, "connect");
  for (;;) {
    if (const auto failure = turn.wait(deadline)) return {{}, failure};
    const std::error_code status = answer(descriptor->fd);
    if (!status) return {std::move(conn), {}};
    if (status.value() != EINPROGRESS) return {{}, status};
    turn.used_up();
  }
}

Listening Listener::adopt(net::Fd socket) {
  try {
    net::is_listening(socket);  // which accept asks, and must not throw there
  } catch (const std::system_error& error) {
    return {{}, error.code()};
  }
  if (const std::error_code error = unblock(socket)) return {{}, error};
  const bool stream = short_read_empties(socket);
  auto [descriptor, error] = adopt_fd(std::move(socket), stream);
  return {Listener(std::move(descriptor)), error};
}

Listening listen(const net::Address& address) {
  try {
    return Listener::adopt(net::listen_on(address));
  } catch (const std::system_error& error) {
    return {{}, error.code()};
  }
}

Accepted Listener::accept() const {
  if (descriptor_ == nullptr) return {{}, closed};
  Turn turn(descriptor_, &Descriptor::reading, "accept");
  for (;;) {
    const auto [n, error] = turn.attempt([](int fd) -> ssize_t {
      return ::accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    });
    if (!error) {
      auto [descriptor, failure] =
          adopt_fd(net::Fd(static_cast<int>(n)), turn.descriptor().stream);
      return {Conn(std::move(descriptor)), failure};
    }
    // Out of descriptors accept4 does not look at the listener.
    if (error == closed || !net::is_listening(turn.descriptor().fd)) {
      return {{}, closed};
    }
    if (error.value() != ECONNABORTED) return {{}, error};
  }
}

net::Address Listener::address() const { return address_of(descriptor_); }

PacketListening listen_packet(const net::Address& address) {
  net::Fd socket(::socket(address.storage.ss_family,
                          SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) return {{}, net::last_error()};
  if (::bind(socket.get(), address.get(), address.length) < 0) {
    return {{}, net::last_error()};
  }
  auto [descriptor, error] = adopt_fd(std::move(socket), false);
  return {PacketConn(std::move(descriptor)), error};
}

Received PacketConn::read_from(std::span<char> buffer) const {
  if (descriptor_ == nullptr) return {0, {}, closed};
  Turn turn(descriptor_, &Descriptor::reading, "read");
  net::Address from;
  const auto [n, error] = turn.attempt([&](int fd) {
    from.length = sizeof from.storage;
    return ::recvfrom(fd, buffer.data(), buffer.size(), 0,
                      reinterpret_cast<sockaddr*>(&from.storage), &from.length);
  });
  if (error) return {0, {}, error};
  return {static_cast<std::size_t>(n), from, {}};
}

Result PacketConn::write_to(std::span<const char> bytes,
                            const net::Address& address) const {
  if (descriptor_ == nullptr) return {0, closed};
  Turn turn(descriptor_, &Descriptor::writing, "write");
  const auto [n, error] = turn.attempt([&](int fd) {
    return ::sendto(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL, address.get(),
                    address.length);
  });
  if (error) return {0, error};
  return {static_cast<std::size_t>(n), {}};
}

net::Address PacketConn::address() const { return address_of(descriptor_); }

Adopted File::adopt(net::Fd fd) {
  auto [descriptor, error] = adopt_fd(std::move(fd), false);
  if (error) return {{}, error};
  File file(std::move(descriptor));
  if (const auto failure = unblock(file.descriptor_->fd)) return {{}, failure};
  return {std::move(file), {}};
}

Result File::read(std::span<char> buffer) const {
  return rt::read(descriptor_, buffer, ::read);
}

Result File::write(std::span<const char> bytes) const {
  return rt::write(descriptor_, bytes, ::write);
}

Pipe pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC) < 0) {
    return {{}, {}, net::last_error()};
  }
  net::Fd out(ends[0]);
  net::Fd in(ends[1]);
  auto [reader, no_reader] = File::adopt(std::move(out));
  auto [writer, no_writer] = File::adopt(std::move(in));
  if (no_reader) return {{}, {}, no_reader};
  if (no_writer) return {{}, {}, no_writer};
  return {std::move(reader), std::move(writer), {}};
}

Event::Event()
    : counter_(
          net::check(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")) {
  auto [file, error] = File::adopt(net::Fd(net::check(
      ::fcntl(counter_.get(), F_DUPFD_CLOEXEC, 0), "fcntl F_DUPFD_CLOEXEC")));
  if (error) throw std::system_error(error, "epoll_ctl");
  file_ = std::move(file);
}

void Event::notify() const {
  const std::uint64_t one = 1;
  // At EAGAIN it is full, and enough has been said.
  if (::write(counter_.get(), &one, sizeof one) < 0) return;
}

Counted Event::wait() const {
  std::uint64_t count = 0;
  const auto [n, error] =
      file_.read(std::span(reinterpret_cast<char*>(&count), sizeof count));
  return {count, error};
}

}  // namespace rt
