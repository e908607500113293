//! `drover`: the command line of Drover, for people and scripts. Here: arguments, and the exit code.

mod args;
mod client;
mod clock;
mod commands;
mod decode;
mod error;
mod event_stream;
mod follow;
mod login_file;
mod output;
mod package;
mod place;
mod session;
mod transfer;
mod values;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::error::{EXIT_FAILURE, Error};

fn main() -> ExitCode {
    let args = args::Args::parse();
    let json = args.connection.json;
    // One thread is plenty: everything here waits for the network or a person.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::Usage(format!("cannot start: {error}")), json),
    };
    let result = runtime.block_on(commands::run(args)).and_then(|code| {
        io::stdout().flush().map_err(Error::Output)?;
        Ok(code)
    });
    // A read of standard input that is still waiting must not keep the program alive.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, json),
    }
}

fn fail(error: &Error, json: bool) -> ExitCode {
    if error.is_broken_pipe() {
        return ExitCode::from(EXIT_FAILURE);
    }
    // Nobody is left to be told when standard error is closed too.
    let _ = match error {
        Error::Refused(refused) if json => writeln!(io::stderr(), "{}", refused.body.trim_end()),
        Error::Left => writeln!(io::stderr(), "{error}"),
        _ => writeln!(io::stderr(), "error: {}", error.explain()),
    };
    ExitCode::from(error.exit_code())
}
