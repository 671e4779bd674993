#pragma once

#include <optional>
#include <string>

#include "chapters/06-other-fds/discovery.hpp"
#include "chapters/06-other-fds/limits.hpp"
#include "chapters/06-other-fds/signals.hpp"
#include "chapters/server.hpp"
#include "common/fd.hpp"

// What the server of this chapter can be asked for besides its listener. All of
// it is off unless asked for; serve(listener) runs without.
struct Settings {
  Limits limits;
  std::string limits_file;  // read at the start, when it is saved, at SIGHUP
  std::string companion;    // a shell command that runs beside the server
  std::optional<Signals> signals;
  std::optional<Discovery> discovery;
};

// An echo server, until somebody shuts its listener down or a signal stops it.
// SIGINT and SIGTERM: no new clients; those that are there get the answers to
// what they have sent, for limits.grace at most; a second signal: now. SIGHUP:
// the limits file is read again. SIGUSR1: statistics on standard output. Throws
// std::system_error if a call fails that concerns no single client.
void serve(net::Fd listener, Settings settings);
