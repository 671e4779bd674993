#pragma once

#include <string>

// A line for people, on standard output or error. If nobody takes it at once it
// is lost: a pipe that nobody reads must not keep the clients waiting.
void say(int fd, const std::string& line);
