//! The process that measured jobs run. Starts as fast as a program can, because its own start is not what is measured.
//!
//! `stamp ADDRESS`: says by UDP which job it is and at what time it runs. `lines RATE SECONDS`: prints lines evenly.

use std::{
    io::{self, Write},
    net::UdpSocket,
    time::{Duration, Instant},
};

fn main() -> io::Result<()> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["stamp", address] => {
            let job = std::env::var("DROVER_JOB_ID").unwrap_or_default();
            let text = format!("{job} {}", i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec));
            UdpSocket::bind("127.0.0.1:0")?.send_to(text.as_bytes(), address).map(drop)
        }
        ["lines", rate, seconds] => {
            let number = |text: &str| text.parse::<u32>().map_err(io::Error::other);
            print_lines(number(rate)?, number(seconds)?)
        }
        _ => Err(io::Error::other("say `stamp ADDRESS` or `lines RATE SECONDS`")),
    }
}

/// Ten milliseconds' worth of lines at a time, each lot in one write.
fn print_lines(rate: u32, seconds: u32) -> io::Result<()> {
    let (started, lot) = (Instant::now(), rate / 100);
    for tick in 0..seconds * 100 {
        let mut text = String::new();
        for number in 0..lot {
            text.push_str(&format!("invoice {:>8} was booked, amount {} EUR\n", tick * lot + number, number * 7));
        }
        io::stdout().write_all(text.as_bytes())?;
        let due = Duration::from_millis(10) * (tick + 1);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
    Ok(())
}
