# The switch of stacks for x86-64, System V ABI. The caller keeps all registers
# but these six and the stack pointer by itself: a switch is a call like any.

        .text

# void switch_stacks(void** from, void* to)
#                        rdi         rsi
        .globl  switch_stacks
        .type   switch_stacks, @function
        .p2align 4
switch_stacks:
        .cfi_startproc
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbp, 0
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbx, 0
        pushq   %r12
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r12, 0
        pushq   %r13
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r13, 0
        pushq   %r14
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r14, 0
        pushq   %r15
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r15, 0
        movq    %rsp, (%rdi)

        # From here on we are the other one. It has stopped in this function,
        # at this place, with its own seven words on top.
        movq    %rsi, %rsp
        popq    %r15
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r15
        popq    %r14
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r14
        popq    %r13
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r13
        popq    %r12
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r12
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        popq    %rbp
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbp
        # Not ret: the processor predicts that a ret goes to behind the last
        # call, which is wrong if the two have stopped in different places.
        popq    %rcx
        .cfi_adjust_cfa_offset -8
        .cfi_register %rip, %rcx
        jmpq    *%rcx
        .cfi_endproc
        .size   switch_stacks, . - switch_stacks

# Where the first switch to a new stack arrives: forge_frame has left the
# function in r12 and its argument in r13. Nobody called us, and the function
# does not return.
        .globl  first_frame
        .type   first_frame, @function
        .p2align 4
first_frame:
        .cfi_startproc
        .cfi_undefined %rip
        xorl    %ebp, %ebp
        movq    %r13, %rdi
        callq   *%r12
        ud2
        .cfi_endproc
        .size   first_frame, . - first_frame

        .section .note.GNU-stack, "", @progbits
