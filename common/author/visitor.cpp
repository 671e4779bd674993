#include "common/author/visitor.hpp"

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

}  // namespace

Visitor::Visitor(const net::Address& server, std::string_view bytes)
    : bytes_(bytes) {
  try {
    client_.emplace(server, patience);
  } catch (const std::system_error&) {
    fate_ = Fate::refused;
  } catch (const testing::TimedOut&) {
    fate_ = Fate::stuck;
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
  pollfd entry{client_->fd(), events, 0};
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
      ::send(client_->fd(), rest.data(), rest.size(), MSG_NOSIGNAL);
  if (sent >= 0) {
    sent_ += static_cast<std::size_t>(sent);
  } else if (errno != EAGAIN) {
    broken_ = true;  // what came before the end is still to be read
  }
}

void Visitor::receive() {
  std::array<char, 65536> block;
  const ssize_t n = ::recv(client_->fd(), block.data(), block.size(), 0);
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

void Visitor::finish() {
  if (client_) ::shutdown(client_->fd(), SHUT_WR);
}

void Visitor::reset() {
  if (client_) client_->reset();
}

bool Visitor::has_news() const {
  pollfd entry{client_->fd(), POLLIN, 0};
  return net::check(::poll(&entry, 1, 0), "poll") == 1;
}

bool Visitor::has_end() const {
  char byte = 0;
  return has_news() && ::recv(client_->fd(), &byte, 1, MSG_PEEK) <= 0;
}

}  // namespace author
