// Belief: one place will do, as only one switch happens at a time.
// Fails: rbx is kept (AArch64: x19 to x22)
// Message: rbx is what it was (AArch64: x19 to x22)

#pragma once

#include <cstdint>

// Stops here and goes on with the stack `to`. Keeps on the stack that stops
// what a callee has to leave as it is, and in *from where that stack ends now.
// Returns when somebody switches to *from.
extern "C" void switch_stacks(void** from, void* to);

// What switch_stacks leaves on a stack that stops, lowest address first.
#if defined(__x86_64__)
struct SavedFrame {
  void (*return_address)();
};
static_assert(sizeof(SavedFrame) == 8);

asm(R"(
        .local  place
        .comm   place, 48, 8
        .text
        .globl  switch_stacks
        .type   switch_stacks, @function
switch_stacks:
        movq    %rbp, place(%rip)
        movq    %rbx, place + 8(%rip)
        movq    %r12, place + 16(%rip)
        movq    %r13, place + 24(%rip)
        movq    %r14, place + 32(%rip)
        movq    %r15, place + 40(%rip)
        movq    %rsp, (%rdi)    # *from
        # From here on we are the other one.
        movq    %rsi, %rsp      # to
        movq    place + 40(%rip), %r15
        movq    place + 32(%rip), %r14
        movq    place + 24(%rip), %r13
        movq    place + 16(%rip), %r12
        movq    place + 8(%rip), %rbx
        movq    place(%rip), %rbp
        ret
        .size   switch_stacks, . - switch_stacks
)");
#elif defined(__aarch64__)
struct SavedFrame {
  std::uint64_t x29;
  void (*return_address)();  // x30
  std::uint64_t x19, x20, x21, x22, x23, x24, x25, x26, x27, x28;
  double d8, d9, d10, d11, d12, d13, d14, d15;
};
static_assert(sizeof(SavedFrame) == 20 * 8);

asm(R"(
        .local  place
        .comm   place, 160, 16
        .text
        .globl  switch_stacks
        .type   switch_stacks, %function
switch_stacks:
        adrp    x9, place
        add     x10, x9, #:lo12:place
        stp     x29, x30, [sp, #-160]!
        stp     x19, x20, [x10, #16]
        stp     x21, x22, [x10, #32]
        stp     x23, x24, [x10, #48]
        stp     x25, x26, [x10, #64]
        stp     x27, x28, [x10, #80]
        stp     d8, d9, [x10, #96]
        stp     d10, d11, [x10, #112]
        stp     d12, d13, [x10, #128]
        stp     d14, d15, [x10, #144]
        mov     x9, sp
        str     x9, [x0]        // *from
        // From here on we are the other one.
        mov     sp, x1          // to
        ldp     x19, x20, [x10, #16]
        ldp     x21, x22, [x10, #32]
        ldp     x23, x24, [x10, #48]
        ldp     x25, x26, [x10, #64]
        ldp     x27, x28, [x10, #80]
        ldp     d8, d9, [x10, #96]
        ldp     d10, d11, [x10, #112]
        ldp     d12, d13, [x10, #128]
        ldp     d14, d15, [x10, #144]
        ldp     x29, x30, [sp], #160
        ret
        .size   switch_stacks, . - switch_stacks
)");
#endif
