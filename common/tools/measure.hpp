#pragma once

#include <sched.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/tools/count_calls.hpp"

namespace net {

// Figures of one server program, given by its path. The program takes
// "--port 0", prints "listening on ADDRESS" and echoes. Each function starts
// it afresh, ends it, and has a deadline on every step.

// Thrown when a server cannot be started, dies, hangs or answers wrongly.
// what() names the program, says what went wrong and where its threads are.
struct ServerFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Called now and then with how much of the work is done.
using Progress = std::function<void(std::size_t done, std::size_t of)>;

// While it lives this thread, and every process it starts, runs on one core.
// Waking another core costs as much as ten echoes, but not each time: figures
// of a server on a core of its own differ by more than the servers do.
class OneCore {
 public:
  OneCore();
  OneCore(const OneCore&) = delete;
  OneCore& operator=(const OneCore&) = delete;
  ~OneCore();

 private:
  cpu_set_t before_;
  bool set_ = false;  // where it is refused, figures are rougher
};

// A second client speaks while the first, which has had one answer, is silent.
struct SecondClient {
  bool served;            // false: the server sleeps and has not answered it
  std::string sleeps_in;  // the system call, as the kernel names it; may be ""
};
SecondClient second_client(const std::string& program);

// How many of so many clients are served when none of them leaves.
struct AtOnce {
  std::size_t asked;
  std::size_t served;
  std::size_t turned_away;  // saw end of stream or a reset
  std::size_t waiting() const { return asked - served - turned_away; }
};
AtOnce served_at_once(const std::string& program, std::size_t clients,
                      const Progress& progress = {});

// The system calls of so many requests, those of connecting not among them.
struct RequestCalls {
  std::string refused;  // why nothing could be counted, else empty
  std::uint64_t requests;
  std::vector<CallCount> calls;  // most calls first
  double each() const;           // calls a request
};
// In each round every client sends, and then every client gets its answer.
RequestCalls calls_of_requests(const std::string& program, std::size_t clients,
                               std::size_t rounds);

// What a request costs the server under load, without connecting. The idle
// clients have echoed once before and are silent from then on. The server has a
// core of its own where this thread may use two.
struct LoadCost {
  double cpu;       // nanoseconds of user and system time, a request
  double user;      // the share of user time in all that the server has used.
                    // The kernel looks at each tick of its timer: rough for
                    // less than some seconds in all
  double switches;  // voluntary context switches, a request and, with idle
                    // clients, those of connecting them too
};
LoadCost cost_under_load(const std::string& program, std::uint32_t clients,
                         std::uint32_t size, std::uint64_t requests,
                         std::size_t idle = 0);

// What an echo costs the server while so many clients are idle.
struct EchoCost {
  std::size_t idle;  // clients that have echoed once
  double cpu;        // nanoseconds of user and system time, an echo
};
// One client echoes, one request after the other, and beside it are so many
// idle ones, step by step more: the numbers ascend. A step takes so many
// echoes, or fewer where they take long. All of it runs on one core.
std::vector<EchoCost> echoes_beside_idle(const std::string& program,
                                         const std::vector<std::size_t>& idle,
                                         std::size_t echoes,
                                         const Progress& progress = {});

// Bytes of resident memory by which the server grows with each idle client,
// from few to many clients that have echoed once.
double bytes_of_idle(const std::string& program, std::size_t few,
                     std::size_t many, const Progress& progress = {});

// Of at least one value.
double median(std::vector<double> values);

// "1,100"
std::string grouped(std::size_t number);

// "01-blocking" for "build/bin/01-blocking".
std::string program_name(const std::string& path);

}  // namespace net
