//! Instructions that the processor lacks, in tests: so that kernels are tested where they can't run.
//!
//! Such an instruction raises SIGILL. The handler installed here has it decoded from its bytes and executed in
//! software, and steps over it. So what is tested is the machine code itself: encodings, addresses, strides and shapes,
//! not only the arithmetic. Any other illegal instruction gets the treatment it had before.
//!
//! Handlers are entered only from the instructions themselves, so the thread is never inside an emulator, the
//! allocator or a lock.

use std::sync::Once;

use crate::gemm::{step_amx, step_vnni};

/// Makes AMX and AVX-VNNI work in this process; what the processor has, it does itself.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            on_illegal_instruction;
        // SAFETY: an all-zero sigaction is valid (empty mask, no flags).
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for.
        let status = unsafe { libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()) };
        assert_eq!(status, 0, "SIGILL can be handled");
    });
}

/// The context's name of each general register, in the order of its encoding.
#[rustfmt::skip]
const REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX, libc::REG_RCX, libc::REG_RDX, libc::REG_RBX, libc::REG_RSP, libc::REG_RBP,
    libc::REG_RSI, libc::REG_RDI, libc::REG_R8, libc::REG_R9, libc::REG_R10, libc::REG_R11,
    libc::REG_R12, libc::REG_R13, libc::REG_R14, libc::REG_R15,
];

extern "C" fn on_illegal_instruction(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands every SA_SIGINFO handler the interrupted thread's context.
    let machine = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext };
    let pointer = machine.gregs[libc::REG_RIP as usize] as u64;
    // SAFETY: the processor has just fetched the instruction from there.
    let byte = |offset: u64| unsafe { *((pointer + offset) as *const u8) };
    let register = |r: usize| machine.gregs[REGISTERS[r] as usize] as u64;
    let outcome = step_amx(pointer, byte, register).or_else(|| {
        // SAFETY: the kernel saved the vector registers there.
        unsafe { step_vnni(machine.fpregs.cast(), byte) }.map(Ok)
    });
    match outcome {
        Some(Ok(len)) => machine.gregs[libc::REG_RIP as usize] = (pointer + len) as i64,
        Some(Err(rule)) => fail(rule),
        None => {
            // SAFETY: restores the default; the instruction then faults again and ends the process.
            unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
        }
    }
}

/// Says which rule of the tile unit was broken and ends the process, with calls that signal handlers may make.
fn fail(rule: &str) -> ! {
    for text in ["AMX emulator: this faults on hardware: ", rule, "\n"] {
        // SAFETY: writes a string that is alive to standard error.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}
