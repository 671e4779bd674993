// Belief: a function returns to whoever has called it.
// Fails: a new stack starts
// Message: the first switch arrives: has SavedFrame a word for each push?

#pragma once

#include <cstdint>

// Stops here and goes on with the stack `to`. Keeps on the stack that stops
// what a callee has to leave as it is, and in *from where that stack ends now.
// Returns when somebody switches to *from.
extern "C" void switch_stacks(void** from, void* to);

// What switch_stacks leaves on a stack that stops, lowest address first.
#if defined(__x86_64__)
struct SavedFrame {
  std::uint64_t r15, r14, r13, r12, rbx, rbp;
  void (*return_address)();
};
static_assert(sizeof(SavedFrame) == 7 * 8);

asm(R"(
        .text
        .globl  switch_stacks
        .type   switch_stacks, @function
switch_stacks:
        movq    (%rsp), %rcx
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, (%rdi)    # *from
        # From here on we are the other one.
        movq    %rsi, %rsp      # to
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        addq    $8, %rsp
        jmpq    *%rcx
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
        .text
        .globl  switch_stacks
        .type   switch_stacks, %function
switch_stacks:
        stp     x29, x30, [sp, #-160]!
        stp     x19, x20, [sp, #16]
        stp     x21, x22, [sp, #32]
        stp     x23, x24, [sp, #48]
        stp     x25, x26, [sp, #64]
        stp     x27, x28, [sp, #80]
        stp     d8, d9, [sp, #96]
        stp     d10, d11, [sp, #112]
        stp     d12, d13, [sp, #128]
        stp     d14, d15, [sp, #144]
        mov     x9, sp
        str     x9, [x0]        // *from
        // From here on we are the other one.
        mov     sp, x1          // to
        ldp     x19, x20, [sp, #16]
        ldp     x21, x22, [sp, #32]
        ldp     x23, x24, [sp, #48]
        ldp     x25, x26, [sp, #64]
        ldp     x27, x28, [sp, #80]
        ldp     d8, d9, [sp, #96]
        ldp     d10, d11, [sp, #112]
        ldp     d12, d13, [sp, #128]
        ldp     d14, d15, [sp, #144]
        ldr     x29, [sp], #160
        ret
        .size   switch_stacks, . - switch_stacks
)");
#endif
