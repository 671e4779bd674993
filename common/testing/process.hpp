#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace testing {

using Clock = std::chrono::steady_clock;

// Thrown when something did not happen in time; what() says what.
struct TimedOut : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Asks again and again, with short pauses, until the answer is yes. Throws
// TimedOut naming what was waited for when the limit has passed.
void wait_until(const std::string& what, const std::function<bool()>& holds,
                std::chrono::milliseconds limit = std::chrono::seconds(20));

// Figures of a running process, from procfs (proc(5)). All throw
// std::system_error if the process has been reaped.

// User and system time of all its threads, to the nanosecond.
std::chrono::nanoseconds cpu_time(pid_t process);

// Resident memory in bytes: the exact sum, from smaps_rollup. VmRSS of
// /proc/PID/status is the same figure but lags by dozens of pages.
std::uint64_t resident_bytes(pid_t process);

// How often its first thread has gone to sleep: one for each wakeup.
std::uint64_t voluntary_switches(pid_t process);

// R running, S asleep, T stopped, Z ended and not reaped yet.
char state(pid_t process);

// True once it has ended, reaped or not. Does not throw for a reaped one.
bool has_ended(pid_t process);

// How many descriptors it has open.
std::size_t open_descriptors(pid_t process);

// Waits until the process sleeps and stays asleep: its state is S and it has
// not woken for the given time.
void wait_until_settled(pid_t process, std::chrono::milliseconds calm =
                                           std::chrono::milliseconds(20));

// Raises the soft limit of descriptors of this process to the hard one and
// returns it.
std::uint64_t raise_descriptor_limit();

}  // namespace testing
