#pragma once

#include <stdexcept>

namespace testing {

// Thrown where an exercise is not done yet. It throws rather than asserts: an
// abort would take the other test cases along.
struct Todo : std::logic_error {
  using std::logic_error::logic_error;
};

}  // namespace testing

#define TESTING_TODO_TEXT(line) #line
#define TESTING_TODO_LINE(line) TESTING_TODO_TEXT(line)

// Stands where code is missing; what() reads "FILE:LINE: TODO: what".
#define TODO(what)               \
  throw ::testing::Todo(__FILE__ \
                        ":" TESTING_TODO_LINE(__LINE__) ": TODO: " what)
