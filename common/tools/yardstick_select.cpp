// The leanest echo loop over select: the calls of chapter 02 and nothing else.
//
// It is what the chapter is measured against, not a server. It leaves out:
// bytes the kernel does not take at once (they are lost), running out of
// descriptors (it spins), numbers from FD_SETSIZE on (undefined), and an end.

#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "chapters/server.hpp"
#include "common/socket.hpp"

namespace {

std::array<char, 65536> buffer;

void accept_clients(int listener, fd_set& watched, int& highest) {
  int client = 0;
  while ((client = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK)) >= 0) {
    FD_SET(client, &watched);
    highest = std::max(highest, client);
  }
}

void echo(int client, fd_set& watched) {
  const ssize_t n = ::recv(client, buffer.data(), buffer.size(), 0);
  if (n > 0 && ::send(client, buffer.data(), static_cast<std::size_t>(n),
                      MSG_NOSIGNAL) > 0) {
    return;
  }
  FD_CLR(client, &watched);
  ::close(client);
}

}  // namespace

void serve(net::Fd listener) {
  net::set_nonblocking(listener);
  fd_set watched{};
  FD_SET(listener.get(), &watched);
  int highest = listener.get();
  for (;;) {
    fd_set ready = watched;
    int left = ::select(highest + 1, &ready, nullptr, nullptr, nullptr);
    for (int fd = 0; left > 0; ++fd) {
      if (!FD_ISSET(fd, &ready)) continue;
      --left;
      fd == listener.get() ? accept_clients(fd, watched, highest)
                           : echo(fd, watched);
    }
  }
}
