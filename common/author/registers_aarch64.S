// Calls a function with all registers known that it must leave as they are.

        .text

// void call_with_registers(void (*function)(void*), void* argument,
//                                 x0                      x1
//                          const std::uint64_t* in, std::uint64_t* out)
//                                         x2                      x3
        .globl  call_with_registers
        .type   call_with_registers, %function
        .p2align 4
call_with_registers:
        stp     x29, x30, [sp, #-176]!
        stp     x19, x20, [sp, #16]
        stp     x21, x22, [sp, #32]
        stp     x23, x24, [sp, #48]
        stp     x25, x26, [sp, #64]
        stp     x27, x28, [sp, #80]
        stp     d8, d9, [sp, #96]
        stp     d10, d11, [sp, #112]
        stp     d12, d13, [sp, #128]
        stp     d14, d15, [sp, #144]
        str     x3, [sp, #160]
        mov     x9, x0
        mov     x0, x1
        ldp     x19, x20, [x2]
        ldp     x21, x22, [x2, #16]
        ldp     x23, x24, [x2, #32]
        ldp     x25, x26, [x2, #48]
        ldp     x27, x28, [x2, #64]
        ldp     d8, d9, [x2, #80]
        ldp     d10, d11, [x2, #96]
        ldp     d12, d13, [x2, #112]
        ldp     d14, d15, [x2, #128]
        ldr     x29, [x2, #144]
        blr     x9
        ldr     x3, [sp, #160]
        stp     x19, x20, [x3]
        stp     x21, x22, [x3, #16]
        stp     x23, x24, [x3, #32]
        stp     x25, x26, [x3, #48]
        stp     x27, x28, [x3, #64]
        stp     d8, d9, [x3, #80]
        stp     d10, d11, [x3, #96]
        stp     d12, d13, [x3, #112]
        stp     d14, d15, [x3, #128]
        str     x29, [x3, #144]
        ldp     x19, x20, [sp, #16]
        ldp     x21, x22, [sp, #32]
        ldp     x23, x24, [sp, #48]
        ldp     x25, x26, [sp, #64]
        ldp     x27, x28, [sp, #80]
        ldp     d8, d9, [sp, #96]
        ldp     d10, d11, [sp, #112]
        ldp     d12, d13, [sp, #128]
        ldp     d14, d15, [sp, #144]
        ldp     x29, x30, [sp], #176
        ret
        .size   call_with_registers, . - call_with_registers

        .section .note.GNU-stack, "", %progbits
