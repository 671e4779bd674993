# Calls a function with all registers known that it must leave as they are.

        .text

# void call_with_registers(void (*function)(void*), void* argument,
#                                 rdi                    rsi
#                          const std::uint64_t* in, std::uint64_t* out)
#                                         rdx                      rcx
        .globl  call_with_registers
        .type   call_with_registers, @function
        .p2align 4
call_with_registers:
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        pushq   %rcx
        movq    %rdi, %rax
        movq    %rsi, %rdi
        movq    (%rdx), %rbp
        movq    8(%rdx), %rbx
        movq    16(%rdx), %r12
        movq    24(%rdx), %r13
        movq    32(%rdx), %r14
        movq    40(%rdx), %r15
        callq   *%rax
        popq    %rcx
        movq    %rbp, (%rcx)
        movq    %rbx, 8(%rcx)
        movq    %r12, 16(%rcx)
        movq    %r13, 24(%rcx)
        movq    %r14, 32(%rcx)
        movq    %r15, 40(%rcx)
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        ret
        .size   call_with_registers, . - call_with_registers

        .section .note.GNU-stack, "", @progbits
