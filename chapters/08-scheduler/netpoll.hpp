#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <system_error>
#include <vector>

#include "chapters/08-scheduler/goroutine.hpp"
#include "common/fd.hpp"

namespace rt {

// One direction of a descriptor. Go: rg and wg of pollDesc
// (runtime/netpoll.go).
struct Slot {
  enum class State : std::uint8_t {
    Empty,    // the last call has used up what was reported
    Ready,    // a call is worth a try
    Waiting,  // `waiter` is parked here until it is
  };
  State state = State::Ready;
  bool taken = false;           // somebody is within a call in this direction
  Goroutine* waiter = nullptr;  // only while Waiting
  Queue turn;                   // those who want to be next
};

// What the runtime knows of a descriptor. It lives on, closed, until the last
// call that was parked in it has left.
struct Descriptor {
  net::Fd fd;
  std::uint32_t generation = 0;
  bool stream = true;   // a short read has emptied it, unless wary; of a
                        // listener: those that it accepts
  bool wary = false;    // more than bytes may stand behind a short read
  bool urgent = false;  // an urgent byte has come
  bool closed = false;
  Slot reading;
  Slot writing;
};

// The kernel's list and what it reports. It parks nobody and wakes nobody: it
// says who can go on. Owns no descriptor but its own two.
class Netpoll {
 public:
  Netpoll();  // throws std::system_error

  // Tells the kernel, once for the life of the descriptor and for everything.
  std::error_code add(Descriptor& descriptor);

  // At EAGAIN a descriptor that has had an urgent byte asks for another report:
  // it may have meant a signal. No other: an error that stays is in each report
  // (ip(7), IP_RECVERR), and asking would not end.
  void ask_again(const Descriptor& descriptor) const;

  void remove(const Descriptor& descriptor);

  // Waits until something is reported, at most so long, and returns those who
  // can go on. Throws std::system_error for an error that would stay.
  Queue wait(std::chrono::nanoseconds at_most);

  // Ends a wait, this one or the next. For signal handlers.
  void interrupt() const;

  std::vector<Descriptor*> descriptors() const;

 private:
  // A descriptor's number is given again, a generation is not.
  struct Key {
    int fd;
    std::uint32_t generation;
  };

  bool tell(int operation, const Descriptor& descriptor,
            std::uint32_t interest) const;

  net::Fd epoll_;
  net::Fd interrupt_;  // an eventfd
  std::uint32_t generation_ = 0;
  std::vector<Descriptor*> known_;  // by number
};

}  // namespace rt
