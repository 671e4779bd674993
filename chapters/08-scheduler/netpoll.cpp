#include "chapters/08-scheduler/netpoll.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>

#include "common/error.hpp"

namespace rt {
namespace {

// As many as Go takes: the rest is reported by the next wait.
constexpr int events_a_wait = 128;

constexpr std::uint32_t everything = EPOLLIN | EPOLLOUT | EPOLLRDHUP;

// A call is worth a try now: for the one who waits, or for the next to come.
void make_ready(Slot& slot, Queue& woken) {
  // Its time may have been up just before, then it stands in another queue.
  if (slot.state == Slot::State::Waiting &&
      slot.waiter->state == Goroutine::State::Parked) {
    woken.push(*slot.waiter);
  }
  slot.state = Slot::State::Ready;
}

// epoll_wait for the two times that need no more: a look, and for ever.
int wait_for_events(int epoll, std::array<epoll_event, events_a_wait>& events,
                    std::chrono::nanoseconds at_most) {
  if (at_most == at_most.zero() || at_most == at_most.max()) {
    const int timeout = at_most == at_most.zero() ? 0 : -1;
    return ::epoll_wait(epoll, events.data(), events_a_wait, timeout);
  }
  const auto seconds = floor<std::chrono::seconds>(at_most);
  const timespec timeout{seconds.count(), (at_most - seconds).count()};
  const int n =
      ::epoll_pwait2(epoll, events.data(), events_a_wait, &timeout, nullptr);
  if (n >= 0 || (errno != ENOSYS && errno != EPERM)) return n;
  // Before Linux 5.11, and in a sandbox that does not know the call, there are
  // only milliseconds: rounded up, never early.
  constexpr std::chrono::milliseconds day = std::chrono::hours(24);
  const auto rounded = std::min(ceil<std::chrono::milliseconds>(at_most), day);
  return ::epoll_wait(epoll, events.data(), events_a_wait,
                      static_cast<int>(rounded.count()));
}

}  // namespace

Netpoll::Netpoll()
    : epoll_(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      interrupt_(
          net::check(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")) {
  epoll_event event{EPOLLIN | EPOLLET,
                    {.u64 = std::bit_cast<std::uint64_t>(Key{-1, 0})}};
  net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, interrupt_.get(), &event),
             "epoll_ctl");
}

// The kernel is asked first: it may be no number of an open descriptor.
std::error_code Netpoll::add(Descriptor& descriptor) {
  descriptor.generation = ++generation_;
  if (!tell(EPOLL_CTL_ADD, descriptor, everything | EPOLLPRI)) {
    return net::last_error();
  }
  const auto number = static_cast<std::size_t>(descriptor.fd.get());
  if (number >= known_.size()) known_.resize(number + 1);
  known_[number] = &descriptor;
  return {};
}

// Not for an urgent byte, which nothing may use up.
void Netpoll::ask_again(const Descriptor& descriptor) const {
  tell(EPOLL_CTL_MOD, descriptor, everything);
}

void Netpoll::remove(const Descriptor& descriptor) {
  tell(EPOLL_CTL_DEL, descriptor, 0);
  known_[static_cast<std::size_t>(descriptor.fd.get())] = nullptr;
}

bool Netpoll::tell(int operation, const Descriptor& descriptor,
                   std::uint32_t interest) const {
  const Key key{descriptor.fd.get(), descriptor.generation};
  epoll_event event{interest | EPOLLET,
                    {.u64 = std::bit_cast<std::uint64_t>(key)}};
  return ::epoll_ctl(epoll_.get(), operation, key.fd, &event) == 0;
}

Queue Netpoll::wait(std::chrono::nanoseconds at_most) {
  std::array<epoll_event, events_a_wait> events;
  const int n = wait_for_events(epoll_.get(), events, at_most);
  if (n < 0) net::rest_or_throw("epoll_wait");
  Queue woken;
  for (int i = 0; i < n; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    const auto [fd, generation] = std::bit_cast<Key>(event.data.u64);
    if (fd < 0) continue;  // interrupt_: this wait has ended, all it is for
    Descriptor* descriptor = known_[static_cast<std::size_t>(fd)];
    if (descriptor == nullptr || descriptor->generation != generation) continue;
    if ((event.events & ~(EPOLLIN | EPOLLOUT)) != 0) descriptor->wary = true;
    if ((event.events & EPOLLPRI) != 0) descriptor->urgent = true;
    if ((event.events & ~EPOLLOUT) != 0) make_ready(descriptor->reading, woken);
    if ((event.events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
      make_ready(descriptor->writing, woken);
    }
  }
  return woken;
}

void Netpoll::interrupt() const {
  const std::uint64_t one = 1;
  if (::write(interrupt_.get(), &one, sizeof one) < 0) return;  // it is full
}

std::vector<Descriptor*> Netpoll::descriptors() const {
  std::vector<Descriptor*> open;
  for (Descriptor* descriptor : known_) {
    if (descriptor != nullptr) open.push_back(descriptor);
  }
  return open;
}

}  // namespace rt
