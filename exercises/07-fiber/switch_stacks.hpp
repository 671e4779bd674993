// Fill: the switch of stacks. It keeps too few registers.
//
// There is a block for each architecture; yours is enough. It compiles, and it
// works for whoever knows nothing when it stops.

#pragma once

#include <cstdint>

// Stops here and goes on with the stack `to`. Keeps on the stack that stops
// what a callee has to leave as it is, and in *from where that stack ends now.
// Returns when somebody switches to *from.
//
// The registers are those of the System V ABI for x86-64 (section 3.2.1) and
// of AAPCS64 (sections 6.1.1 and 6.1.2).
extern "C" void switch_stacks(void** from, void* to);

// What switch_stacks leaves on a stack that stops, lowest address first. A new
// stack gets a frame like this at its top, all zeros but the return address:
// so the first switch to it returns to a function that nobody has called.
#if defined(__x86_64__)
struct SavedFrame {
  std::uint64_t rbp;
  void (*return_address)();
};

asm(R"(
        .text
        .globl  switch_stacks
        .type   switch_stacks, @function
switch_stacks:
        pushq   %rbp
        movq    %rsp, (%rdi)    # *from
        movq    %rsi, %rsp      # to
        popq    %rbp
        ret
        .size   switch_stacks, . - switch_stacks
)");
#elif defined(__aarch64__)
struct SavedFrame {
  std::uint64_t x29;
  void (*return_address)();  // x30
};

asm(R"(
        .text
        .globl  switch_stacks
        .type   switch_stacks, %function
switch_stacks:
        stp     x29, x30, [sp, #-16]!
        mov     x9, sp
        str     x9, [x0]        // *from
        mov     sp, x1          // to
        ldp     x29, x30, [sp], #16
        ret
        .size   switch_stacks, . - switch_stacks
)");
#endif
