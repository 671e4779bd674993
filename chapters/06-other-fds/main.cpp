// The main of chapter 06: the options of the others, and what this server can
// be asked for besides.

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chapters/06-other-fds/discovery.hpp"
#include "chapters/06-other-fds/server.hpp"
#include "common/error.hpp"
#include "common/options.hpp"
#include "common/socket.hpp"

namespace {

using std::chrono::milliseconds;

struct Arguments {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  std::string discovery_port;
  Settings settings;
};

void declare(net::Options& options, Arguments& arguments) {
  Settings& settings = arguments.settings;
  options.text("--host", "address to listen on", arguments.host);
  options.number("--port", "port to listen on, 0 for any free one", 0, 65535,
                 arguments.port);
  options.time("--idle-timeout", "drop clients silent for so long, 0: never",
               milliseconds(0), longest_limit, settings.limits.idle_timeout);
  options.time("--grace", "how long a stop waits for what is under way",
               milliseconds(0), longest_limit, settings.limits.grace);
  options.text("--discovery-port",
               "answer who looks for the server there, 0 for any free one",
               arguments.discovery_port);
  options.text("--limits", "file of limits, read again when it is saved",
               settings.limits_file);
  options.text("--companion", "shell command to run beside the server",
               settings.companion);
}

void say_where(const std::string& lines) {
  if (std::fputs(lines.c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
    net::throw_errno("write", "standard output");
  }
}

int run(Arguments arguments) {
  Settings& settings = arguments.settings;
  std::optional<std::uint16_t> discovery;
  if (!arguments.discovery_port.empty()) {
    discovery = static_cast<std::uint16_t>(net::parse_number(
        "--discovery-port", arguments.discovery_port, 0, 65535));
  }
  settings.signals.emplace(
      std::initializer_list<int>{SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGPIPE});
  if (!settings.limits_file.empty()) {
    read_limits(settings.limits_file, settings.limits);  // or complain now
  }
  net::Fd listener =
      net::listen_on(net::resolve(arguments.host, arguments.port));
  const net::Address address = net::local_address(listener);
  std::string lines = "listening on " + address.text() + '\n';
  if (discovery) {
    settings.discovery.emplace(address, *discovery);
    lines += "discovery on " + settings.discovery->where() + '\n';
  }
  say_where(lines);
  serve(std::move(listener), std::move(settings));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  net::Options options(
      "[--host ADDRESS] [--port NUMBER] [--idle-timeout TIME]\n"
      "  [--grace TIME] [--discovery-port NUMBER] [--limits FILE]\n"
      "  [--companion COMMAND]",
      "An echo server: whatever a client sends comes back. SIGINT and SIGTERM\n"
      "stop it when all is answered, a second one at once. SIGHUP reads the\n"
      "limits again, SIGUSR1 prints statistics.");
  declare(options, arguments);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& words) {
        if (!words.empty()) {
          throw net::UsageError("unexpected argument '" + words[0] + "'");
        }
        return run(std::move(arguments));
      });
}
