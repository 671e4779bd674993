// With angle brackets: quotes would find the header beside this file even when
// the solution is built.
#include <interest_sets.hpp>

#include <doctest/doctest.h>
#include <sys/select.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

namespace {

constexpr int listener = 3;

// A set and what lies behind it in memory.
struct Fenced {
  fd_set set{};
  std::array<char, 256> fence{};
};

struct Outcome {
  int nfds = 0;
  Fenced to_read;
  Fenced to_write;
  std::vector<int> refused;
};

Outcome ask(const std::vector<Client>& clients, Outcome outcome = {}) {
  outcome.nfds = interest_sets(listener, clients, outcome.to_read.set,
                               outcome.to_write.set, outcome.refused);
  return outcome;
}

bool holds(const Fenced& fenced, const std::vector<int>& expected) {
  std::vector<int> found;
  for (int fd = 0; fd < FD_SETSIZE; ++fd) {
    if (FD_ISSET(fd, &fenced.set)) found.push_back(fd);
  }
  return found == expected;
}

bool untouched(const Fenced& fenced) {
  return std::count(fenced.fence.begin(), fenced.fence.end(), '\0') ==
         static_cast<std::ptrdiff_t>(fenced.fence.size());
}

}  // namespace

TEST_CASE("some clients have bytes pending") {
  const Outcome outcome = ask({{9, 0}, {70, 5}, {4, 0}, {63, 1}, {64, 0}});
  CHECK_MESSAGE(holds(outcome.to_read, {3, 4, 9, 64}),
                "the listener and clients with nothing pending are to be read");
  CHECK_MESSAGE(holds(outcome.to_write, {63, 70}),
                "only clients with bytes pending are to be written");
  CHECK_MESSAGE(outcome.nfds == 71,
                "nfds is the highest descriptor plus 1: " << outcome.nfds);
}

TEST_CASE("the sets still hold the last round") {
  Outcome last;
  for (const int fd : {0, 5, 1000}) {
    FD_SET(fd, &last.to_read.set);
    FD_SET(fd, &last.to_write.set);
  }
  const Outcome outcome = ask({{9, 0}, {10, 1}}, last);
  CHECK_MESSAGE(
      (holds(outcome.to_read, {3, 9}) && holds(outcome.to_write, {10})),
      "nothing of the last round is left in the sets");
}

TEST_CASE("descriptors go up to FD_SETSIZE and beyond") {
  const Outcome outcome =
      ask({{1500, 0}, {FD_SETSIZE - 1, 0}, {FD_SETSIZE, 1}, {8, 1}});
  CHECK_MESSAGE((untouched(outcome.to_read) && untouched(outcome.to_write)),
                "nothing is written behind the sets");
  CHECK_MESSAGE(holds(outcome.to_read, {3, FD_SETSIZE - 1}),
                "the last descriptor below FD_SETSIZE has a bit");
  CHECK_MESSAGE(std::count(outcome.refused.begin(), outcome.refused.end(),
                           FD_SETSIZE) == 1,
                "a descriptor without a bit is reported");
  CHECK_MESSAGE(outcome.nfds == FD_SETSIZE,
                "nfds leaves out who was refused: " << outcome.nfds);
}
