#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace rt {

// Stops here and goes on with the stack `to`. Keeps the registers that a
// callee must leave as they are on the stack that stops, and where that stack
// ends now in *from. Returns when somebody switches to *from.
//
// It keeps nothing else: context.hpp does. Written in assembly, one file for
// each architecture; the registers are those of the System V ABI for x86-64
// (section 3.2.1) and of AAPCS64 (sections 6.1.1 and 6.1.2).
extern "C" void switch_stacks(void** from, void* to);

// The bottom of every stack of ours. Not to be called.
extern "C" void first_frame();

// What switch_stacks leaves on a stack that stops, lowest address first.
#if defined(__x86_64__)
struct SavedFrame {
  std::uint64_t r15, r14;
  void* r13;           // of a forged frame: the argument
  void (*r12)(void*);  // of a forged frame: the function
  std::uint64_t rbx, rbp;
  void (*return_address)();
};
static_assert(sizeof(SavedFrame) == 7 * 8);
#elif defined(__aarch64__)
struct SavedFrame {
  std::uint64_t x29;
  void (*return_address)();  // x30
  void (*x19)(void*);        // of a forged frame: the function
  void* x20;                 // of a forged frame: the argument
  std::array<std::uint64_t, 8> x21_to_x28;
  std::array<double, 8> d8_to_d15;
};
static_assert(sizeof(SavedFrame) == 20 * 8);
#else
#error "the switch is written for x86-64 and AArch64"
#endif

// Makes a stack look as if it had stopped before its first instruction: the
// first switch to the returned pointer calls function(argument), which must
// not return. `top` is the end of the stack's memory, aligned to 16 bytes.
void* forge_frame(std::byte* top, void (*function)(void*), void* argument);

}  // namespace rt
