#pragma once

#include <string>

namespace net {

// The name of a system call of this architecture, as in syscalls(2):
// "recvfrom"; "syscall 9999" for a number the C library's headers do not know.
std::string syscall_name(long number);

}  // namespace net
