//! Exit codes and signals in words.

/// Says in words how a process ended.
pub fn meaning(code: Option<i64>, signal: Option<i32>) -> String {
    match (code, signal) {
        (_, Some(signal)) => format!("ended by signal {signal} ({})", signal_name(signal)),
        (Some(0), None) => "success".to_owned(),
        (Some(code), None) => match code_meaning(code) {
            Some(words) => format!("exit code {code} ({words})"),
            None => format!("exit code {code}"),
        },
        (None, None) => "unknown".to_owned(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => "SIGHUP: its terminal was closed",
        2 => "SIGINT: interrupted",
        3 => "SIGQUIT",
        4 => "SIGILL: illegal instruction",
        5 => "SIGTRAP",
        6 => "SIGABRT: it gave up, as after a failed assertion",
        7 => "SIGBUS: bad memory access",
        8 => "SIGFPE: arithmetic error",
        9 => "SIGKILL: killed, perhaps for lack of memory",
        11 => "SIGSEGV: invalid memory access",
        13 => "SIGPIPE: wrote to a closed pipe",
        14 => "SIGALRM",
        15 => "SIGTERM: asked to end",
        24 => "SIGXCPU: its CPU time limit is used up",
        25 => "SIGXFSZ: its file size limit is exceeded",
        31 => "SIGSYS: forbidden system call",
        _ => "another signal",
    }
}

fn code_meaning(code: i64) -> Option<String> {
    // Windows codes come as 32 bits, signed or not.
    let words = match code & 0xffff_ffff {
        126 => "the command was found but could not be executed",
        127 => "a command was not found",
        0x4001_0004 => "ended by a debugger",
        0xC000_0005 => "access violation: invalid memory access",
        0xC000_0017 => "out of memory",
        0xC000_001D => "illegal instruction",
        0xC000_0022 => "access denied",
        0xC000_0094 => "division by zero",
        0xC000_00FD => "stack overflow",
        0xC000_0135 => "a DLL was not found",
        0xC000_0139 => "an entry point was not found in a DLL",
        0xC000_013A => "interrupted by Ctrl-C",
        0xC000_0142 => "a DLL could not be initialised, as without a desktop session",
        0xC000_0374 => "heap corruption",
        0xC000_0409 => "stack buffer overrun, or a deliberate crash",
        0xE043_4352 => "unhandled .NET exception",
        0xE06D_7363 => "unhandled C++ exception",
        masked if masked == code && (129..=192).contains(&code) => {
            let signal = i32::try_from(code - 128).ok()?;
            return Some(format!("as a shell reports signal {signal}, {}", signal_name(signal)));
        }
        _ => return None,
    };
    Some(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::meaning;

    #[test]
    fn codes_are_told_in_words() {
        assert_eq!(meaning(Some(0), None), "success");
        assert_eq!(meaning(Some(2), None), "exit code 2");
        assert_eq!(meaning(Some(127), None), "exit code 127 (a command was not found)");
        assert!(meaning(Some(137), None).contains("lack of memory"));
        assert!(meaning(None, Some(11)).contains("SIGSEGV"));
        assert!(meaning(Some(-1_073_741_819), None).contains("access violation"));
        assert!(meaning(Some(3_221_225_477), None).contains("access violation"));
        assert_eq!(meaning(Some(-5), None), "exit code -5");
    }
}
