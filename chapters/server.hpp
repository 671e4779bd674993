#pragma once

#include "common/fd.hpp"

// What every server chapter implements: an echo server (RFC 862).
//
// Takes a listening TCP socket and serves its clients until somebody shuts the
// socket down; then accept fails with EINVAL, which is to a server what 0 is
// to a reader of a stream. Throws std::system_error if a call fails that
// concerns no single client.
void serve(net::Fd listener);
