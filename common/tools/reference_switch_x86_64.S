# The best switch we know how to write by hand, to measure the book's beside:
# the six registers and the stack pointer that a callee keeps, and no ret.

        .text

# void reference_switch(void** from, void* to)
        .globl  reference_switch
        .type   reference_switch, @function
        .p2align 4
reference_switch:
        pushq   %rbp
        pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
        popq    %rbp
        popq    %rcx
        jmpq    *%rcx
        .size   reference_switch, . - reference_switch

        .section .note.GNU-stack, "", @progbits
