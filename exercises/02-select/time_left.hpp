#pragma once

#include <sys/select.h>
#include <sys/time.h>

#include <cerrno>
#include <chrono>

#include "common/error.hpp"
#include "common/testing/todo.hpp"
#include "exercises/02-select/given/world.hpp"

// The time from now to the deadline as select wants it: seconds, and below a
// million microseconds. A part of a microsecond counts as a whole one, so that
// select does not return before the deadline. Zero if the deadline has passed.
inline timeval time_left(Clock::time_point deadline, Clock::time_point now) {
  TODO("subtract, round up, split");
}

// Waits until fd is readable. False: the deadline has passed and it is not.
//
// A signal does not end the wait and does not make it longer. Even if the
// deadline has passed already, world.select is asked once. fd is below
// FD_SETSIZE. Throws std::system_error if select fails otherwise.
inline bool wait_readable(const World& world, int fd,
                          Clock::time_point deadline) {
  TODO("ask world.select with time_left, again after every signal");
}
