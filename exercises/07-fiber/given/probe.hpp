#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// Two that switch to each other and nothing else, written in assembly: a
// compiler would be free not to use the registers that a test is about. They
// trust nothing that switch_stacks has to keep. What they need afterwards is in
// memory, so they go on also where the registers or the stack pointer are
// wrong.

#if defined(__x86_64__)
inline constexpr std::array<const char*, 6> register_names{"rbx", "rbp", "r12",
                                                           "r13", "r14", "r15"};
#elif defined(__aarch64__)
inline constexpr std::array<const char*, 19> register_names{
    "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28",
    "x29", "d8",  "d9",  "d10", "d11", "d12", "d13", "d14", "d15"};
#endif

using Registers = std::array<std::uint64_t, register_names.size()>;

// What one of the two has put in and found. The assembly below knows the order.
struct Side {
  Registers put{};     // before each switch
  Registers found{};   // after the last one
  Registers caller{};  // whose these registers are
  std::uint64_t return_address = 0;
  void* stopped = nullptr;          // what switch_stacks has noted in *from
  Side* other = nullptr;            // to whom it switches
  std::uint64_t sp_before = 0;      // of each call of switch_stacks
  std::uint64_t sp_on_arrival = 0;  // at the first instruction on a new stack
  std::uint64_t intact = 0;         // words of the caller's frame, afterwards
};

// So many words the caller of switch_stacks has on the stack.
inline constexpr std::uint64_t words_in_frame = 16;

extern "C" {
[[gnu::used]] inline Side* probe_here = nullptr;
[[gnu::used]] inline Side* probe_there = nullptr;

// Puts its registers in, switches from here to there, and returns when somebody
// has switched back.
void probe_visit_here();

// The first function of there: the same the other way round, again and again.
// Not to be called.
void probe_arrive_there();
}

// As an address, the word of a frame is one at which nothing can be.
#if defined(__x86_64__)
asm(R"(
        .macro  probe_visit name, side
        .text
        .globl  \name
        .type   \name, @function
\name:
        movq    \side(%rip), %rdx
        movq    %rbx, 96(%rdx)
        movq    %rbp, 104(%rdx)
        movq    %r12, 112(%rdx)
        movq    %r13, 120(%rdx)
        movq    %r14, 128(%rdx)
        movq    %r15, 136(%rdx)
        popq    144(%rdx)
        movabsq $0x5afe5afe5afe5afe, %rax
        .rept   16
        pushq   %rax
        .endr
        movq    (%rdx), %rbx
        movq    8(%rdx), %rbp
        movq    16(%rdx), %r12
        movq    24(%rdx), %r13
        movq    32(%rdx), %r14
        movq    40(%rdx), %r15
        movq    %rsp, 168(%rdx)
        leaq    152(%rdx), %rdi
        movq    160(%rdx), %rsi
        movq    152(%rsi), %rsi
        callq   switch_stacks
        movq    \side(%rip), %rdx
        movq    %rbx, 48(%rdx)
        movq    %rbp, 56(%rdx)
        movq    %r12, 64(%rdx)
        movq    %r13, 72(%rdx)
        movq    %r14, 80(%rdx)
        movq    %r15, 88(%rdx)
        movq    168(%rdx), %rsp
        movabsq $0x5afe5afe5afe5afe, %rax
        xorl    %ecx, %ecx
        .rept   16
        popq    %rsi
        cmpq    %rax, %rsi
        sete    %sil
        movzbl  %sil, %esi
        addl    %esi, %ecx
        .endr
        movq    %rcx, 184(%rdx)
        movq    96(%rdx), %rbx
        movq    104(%rdx), %rbp
        movq    112(%rdx), %r12
        movq    120(%rdx), %r13
        movq    128(%rdx), %r14
        movq    136(%rdx), %r15
        pushq   144(%rdx)
        ret
        .size   \name, . - \name
        .endm

        probe_visit probe_visit_here, probe_here
        probe_visit probe_visit_there, probe_there

        .globl  probe_arrive_there
        .type   probe_arrive_there, @function
probe_arrive_there:
        movq    probe_there(%rip), %rdx
        movq    %rsp, 176(%rdx)
        andq    $-16, %rsp
1:      callq   probe_visit_there
        jmp     1b
        .size   probe_arrive_there, . - probe_arrive_there
)");
static_assert(offsetof(Side, found) == 48 && offsetof(Side, caller) == 96);
static_assert(offsetof(Side, return_address) == 144);
static_assert(offsetof(Side, stopped) == 152 && offsetof(Side, other) == 160);
static_assert(offsetof(Side, sp_before) == 168);
static_assert(offsetof(Side, sp_on_arrival) == 176);
static_assert(offsetof(Side, intact) == 184);
#elif defined(__aarch64__)
asm(R"(
        .macro  probe_registers how, one, at
        \how\()p  x19, x20, [x9, #\at]
        \how\()p  x21, x22, [x9, #\at + 16]
        \how\()p  x23, x24, [x9, #\at + 32]
        \how\()p  x25, x26, [x9, #\at + 48]
        \how\()p  x27, x28, [x9, #\at + 64]
        \one      x29, [x9, #\at + 80]
        \how\()p  d8, d9, [x9, #\at + 88]
        \how\()p  d10, d11, [x9, #\at + 104]
        \how\()p  d12, d13, [x9, #\at + 120]
        \how\()p  d14, d15, [x9, #\at + 136]
        .endm

        .macro  probe_visit name, side
        .text
        .globl  \name
        .type   \name, %function
\name:
        adrp    x9, \side
        ldr     x9, [x9, #:lo12:\side]
        probe_registers st, str, 304
        str     x30, [x9, #456]
        ldr     x10, =0x5afe5afe5afe5afe
        .rept   8
        stp     x10, x10, [sp, #-16]!
        .endr
        probe_registers ld, ldr, 0
        mov     x10, sp
        str     x10, [x9, #480]
        add     x0, x9, #464
        ldr     x1, [x9, #472]
        ldr     x1, [x1, #464]
        bl      switch_stacks
        adrp    x9, \side
        ldr     x9, [x9, #:lo12:\side]
        probe_registers st, str, 152
        ldr     x10, [x9, #480]
        mov     sp, x10
        ldr     x10, =0x5afe5afe5afe5afe
        mov     x11, xzr
        .rept   8
        ldp     x12, x13, [sp], #16
        cmp     x12, x10
        cinc    x11, x11, eq
        cmp     x13, x10
        cinc    x11, x11, eq
        .endr
        str     x11, [x9, #496]
        probe_registers ld, ldr, 304
        ldr     x30, [x9, #456]
        ret
        .ltorg
        .size   \name, . - \name
        .endm

        probe_visit probe_visit_here, probe_here
        probe_visit probe_visit_there, probe_there

        .globl  probe_arrive_there
        .type   probe_arrive_there, %function
probe_arrive_there:
        adrp    x9, probe_there
        ldr     x9, [x9, #:lo12:probe_there]
        mov     x10, sp
        str     x10, [x9, #488]
        and     x10, x10, #-16
        mov     sp, x10
1:      bl      probe_visit_there
        b       1b
        .size   probe_arrive_there, . - probe_arrive_there
)");
static_assert(offsetof(Side, found) == 152 && offsetof(Side, caller) == 304);
static_assert(offsetof(Side, return_address) == 456);
static_assert(offsetof(Side, stopped) == 464 && offsetof(Side, other) == 472);
static_assert(offsetof(Side, sp_before) == 480);
static_assert(offsetof(Side, sp_on_arrival) == 488);
static_assert(offsetof(Side, intact) == 496);
#endif
