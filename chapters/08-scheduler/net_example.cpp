// The server with which this course began: Listen, Accept, go, Read, as in
// Go, line by line. What the lesson says is wrong with the original is mended
// here: every error is looked at, the end of a client ends its goroutine, and
// a read is a piece of a stream and no message.

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/options.hpp"
#include "common/socket.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

namespace {

void say(const std::string& words) {
  if (std::fwrite(words.data(), 1, words.size(), stdout) != words.size() ||
      std::fflush(stdout) != 0) {
    net::throw_errno("write", "standard output");
  }
}

void handle_connection(rt::Conn conn) {
  std::array<char, 1024> buf;
  for (;;) {
    const auto [n, err] = conn.read(buf);
    if (err) return;
    say("Received: " + std::string(buf.data(), n) + '\n');
  }
}

void listen_and_serve(const net::Address& address) {
  auto [ln, err] = rt::listen(address);
  if (err) throw std::system_error(err, "listen " + address.text());
  say("listening on " + ln.address().text() + '\n');
  for (;;) {
    auto [conn, failure] = ln.accept();
    if (failure) {
      rt::sleep(std::chrono::milliseconds(100));
      continue;
    }
    rt::go(handle_connection, std::move(conn));
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  net::Options options(
      "[--host ADDRESS] [--port NUMBER]",
      "Prints what its clients send. Ctrl-\\ lists its goroutines; with\n"
      "RT_TRACE=1 in the environment a line a second counts them.");
  options.text("--host", "address to listen on", host);
  options.number("--port", "port to listen on, 0 for any free one", 0, 65535,
                 port);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& arguments) {
        if (!arguments.empty()) {
          throw net::UsageError("unexpected argument '" + arguments[0] + "'");
        }
        rt::run([&] { listen_and_serve(net::resolve(host, port)); });
        return 0;
      });
}
