// The leanest echo loop over poll: the calls of chapter 03 and nothing else.
//
// It is what the chapter is measured against, not a server. It leaves out:
// bytes the kernel does not take at once (they are lost), running out of
// descriptors (it spins), and an end.

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "chapters/server.hpp"
#include "common/socket.hpp"

namespace {

std::array<char, 65536> buffer;

void accept_clients(std::vector<pollfd>& entries) {
  int client = 0;
  while ((client = ::accept4(entries[0].fd, nullptr, nullptr, SOCK_NONBLOCK)) >=
         0) {
    entries.push_back({client, POLLIN, 0});
  }
}

// False: the client is gone.
bool echo(int client) {
  const ssize_t n = ::recv(client, buffer.data(), buffer.size(), 0);
  if (n > 0 && ::send(client, buffer.data(), static_cast<std::size_t>(n),
                      MSG_NOSIGNAL) > 0) {
    return true;
  }
  ::close(client);
  return false;
}

}  // namespace

void serve(net::Fd listener) {
  net::set_nonblocking(listener);
  std::vector<pollfd> entries{{listener.get(), POLLIN, 0}};
  for (;;) {
    int left = ::poll(entries.data(), entries.size(), -1);
    const bool newcomers = entries[0].revents != 0;
    if (newcomers) --left;
    for (std::size_t i = 1; left > 0; ++i) {
      if (entries[i].revents == 0) continue;
      --left;
      if (echo(entries[i].fd)) continue;
      entries[i--] = entries.back();
      entries.pop_back();
    }
    if (newcomers) accept_clients(entries);
  }
}
