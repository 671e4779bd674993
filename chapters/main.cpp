// The one main of the server chapters: options, listen, say where, serve.

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "chapters/server.hpp"
#include "common/error.hpp"
#include "common/options.hpp"
#include "common/socket.hpp"

int main(int argc, char** argv) {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  net::Options options("[--host ADDRESS] [--port NUMBER]",
                       "An echo server: whatever a client sends comes back.");
  options.text("--host", "address to listen on", host);
  options.number("--port", "port to listen on, 0 for any free one", 0, 65535,
                 port);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& arguments) {
        if (!arguments.empty()) {
          throw net::UsageError("unexpected argument '" + arguments[0] + "'");
        }
        net::Fd listener = net::listen_on(net::resolve(host, port));
        const std::string address = net::local_address(listener).text();
        if (std::printf("listening on %s\n", address.c_str()) < 0 ||
            std::fflush(stdout) != 0) {
          net::throw_errno("write", "standard output");
        }
        serve(std::move(listener));
        return 0;
      });
}
