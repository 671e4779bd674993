// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <dense_list.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// Clients 10 to 13; poll has reported input on each of them.
DenseList four_ready_clients() {
  DenseList list;
  for (const int fd : {10, 11, 12, 13}) list.add(fd, POLLIN);
  for (pollfd& entry : list.entries()) entry.revents = POLLIN;
  return list;
}

// "10:in 11:out": who is in the list and what it is waited for.
std::string text(DenseList& list) {
  std::vector<std::string> words;
  for (const pollfd& entry : list.entries()) {
    words.push_back(std::to_string(entry.fd) +
                    (entry.events == POLLOUT ? ":out" : ":in"));
  }
  std::sort(words.begin(), words.end());
  std::string line;
  for (const std::string& word : words) {
    line += (line.empty() ? "" : " ") + word;
  }
  return line;
}

// "10 11 12", in the order of the numbers: the order of the turns is free.
std::string text(std::vector<int> turns) {
  std::sort(turns.begin(), turns.end());
  std::string line;
  for (const int fd : turns) {
    line += (line.empty() ? "" : " ") + std::to_string(fd);
  }
  return line;
}

std::string all_without(int fd) { return fd == 10 ? "11 12 13" : "10 11 12"; }

// What watch does for a client that is not in the list.
std::string watch_a_stranger(DenseList& list, int fd) {
  try {
    list.watch(fd, POLLOUT);
  } catch (const std::out_of_range&) {
    return "out_of_range";
  }
  return text(list);
}

}  // namespace

TEST_CASE("the one that takes the free place can still be reached") {
  DenseList list;
  for (const int fd : {10, 11, 12, 13}) list.add(fd, POLLIN);
  list.remove(10);
  list.add(14, POLLIN);
  list.watch(13, POLLOUT);
  CHECK_MESSAGE(text(list) == "11:in 12:in 13:out 14:in",
                "13 is waited for like this and nobody else");
}

TEST_CASE("the last one leaves like any other") {
  DenseList list;
  list.add(10, POLLIN);
  list.add(11, POLLIN);
  list.remove(11);
  list.add(12, POLLIN);
  CHECK_MESSAGE(watch_a_stranger(list, 11) == "out_of_range",
                "11 has left and is not in the list any more");
}

TEST_CASE("who leaves in its own turn takes nobody else's") {
  DenseList list = four_ready_clients();
  std::vector<int> turns;
  list.sweep([&](int fd, short) {
    turns.push_back(fd);
    list.remove(fd);
  });
  CHECK_MESSAGE(text(turns) == "10 11 12 13",
                "all four have a turn and leave in it");
}

TEST_CASE("who removes one that has had its turn takes nobody else's") {
  DenseList list = four_ready_clients();
  std::vector<int> turns;
  list.sweep([&](int fd, short) {
    turns.push_back(fd);
    if (turns.size() == 2) list.remove(turns.front());
  });
  CHECK_MESSAGE(
      text(turns) == "10 11 12 13",
      "all four have a turn though the first is removed in the second");
}

TEST_CASE("who is removed before its turn has none") {
  DenseList list = four_ready_clients();
  std::vector<int> turns;
  int removed = 0;
  list.sweep([&](int fd, short) {
    turns.push_back(fd);
    if (turns.size() > 1) return;
    removed = fd == 10 ? 13 : 10;
    list.remove(removed);
  });
  CHECK_MESSAGE(text(turns) == all_without(removed),
                "the three that stay have one turn each");
}

TEST_CASE("a newcomer has no turn under an old number") {
  DenseList list = four_ready_clients();
  std::vector<int> turns;
  int number = 0;
  list.sweep([&](int fd, short) {
    turns.push_back(fd);
    if (turns.size() > 1) return;
    number = fd == 10 ? 13 : 10;
    list.remove(number);
    list.add(number, POLLIN);
  });
  CHECK_MESSAGE(text(turns) == all_without(number),
                "nothing has been reported on the newcomer");
}
