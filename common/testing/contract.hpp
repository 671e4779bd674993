#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

namespace testing {

// The contract: what every server of the course promises from chapter 2 on,
// and where a chapter cannot. The table of failures is the story of the course.

// Which one the test holds to it.
extern const std::string_view chapter_under_test;

struct Promise {
  std::string_view id;  // the number in the list of promises, and a letter
  std::string_view text;
};

inline constexpr std::array promises{
    Promise{"1a", "bytes come back unchanged, 1 byte to 64 MiB"},
    Promise{"1b", "bytes come back in order, split or coalesced"},
    Promise{"2a", "a silent client delays nobody"},
    Promise{"2b", "300 clients connecting in one burst are all served"},
    Promise{"2c", "1,100 clients connected at once are all served"},
    Promise{"2d", "clients by the thousand are all served and all stay"},
    Promise{"3a", "a client that finished talking gets every byte, then EOF"},
    Promise{"3b", "a FIN that comes with the last bytes costs none of them"},
    Promise{"4a", "a client that never reads costs bounded memory and no CPU"},
    Promise{"4b", "a client that never reads delays nobody"},
    Promise{"4c", "a client that reads late has lost nothing"},
    Promise{"4d", "two clients flooding the server do not stall a third"},
    Promise{"5a", "a reset ends that client alone"},
    Promise{"5b", "an answer nobody can take any more ends that client alone"},
    Promise{"6a", "out of descriptors nobody is lost and nothing spins"},
    Promise{"6b",
            "a server that cannot open one descriptor rests, then serves"},
    Promise{"6c", "out of descriptors the server can still be stopped"},
    Promise{"6d", "a place that becomes free is given to the one who waits"},
    Promise{"7a", "500 visits leave no descriptor behind"},
    Promise{"7b", "idle means no wakeup at all"},
    Promise{"8a", "stopping and continuing the process changes nothing"},
    Promise{"8b", "signals that interrupt its calls change nothing"},
    Promise{"9", "an idle client costs less than 512 bytes"},
};

struct Failure {
  std::string_view chapter;
  std::string_view promise;  // its id
  std::string_view why;
};

inline constexpr std::array expected_failures{
    Failure{"01-blocking", "2a",
            "the thread sleeps in recv for the silent one"},
    Failure{"01-blocking", "2d", "the second waits until the first has left"},
    Failure{"01-blocking", "4b", "the thread sleeps in send for the full one"},
    Failure{"01-blocking", "4d", "a client that never stops is never left"},
    Failure{"02-select", "2c", "descriptor 1,024 has no bit in an fd_set"},
    Failure{"08-scheduler", "9",
            "it has a stack, and two pages of it are used"},
};

struct Capacity {
  std::string_view chapter;
  std::size_t at_once;  // how many clients it serves at the same time
};

inline constexpr std::array capacities{
    Capacity{"01-blocking", 1},      Capacity{"02-select", 900},
    Capacity{"03-poll", 9000},       Capacity{"04-epoll-level", 9000},
    Capacity{"05-epoll-edge", 9000}, Capacity{"06-other-fds", 9000},
    Capacity{"08-scheduler", 9000},
};

constexpr bool is_expected_failure(std::string_view chapter,
                                   std::string_view promise) {
  return std::any_of(expected_failures.begin(), expected_failures.end(),
                     [=](const Failure& failure) {
                       return failure.chapter == chapter &&
                              failure.promise == promise;
                     });
}

}  // namespace testing
