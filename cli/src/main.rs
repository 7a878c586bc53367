//! The scmmgpt-engine program: train cell models, and use them on `.h5ad` files.
#![forbid(unsafe_code)]

mod arguments;
mod doctor;
mod eval;
mod exit;
mod infer;
mod language;
mod progress;
mod retrieve;
mod train;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, &arguments.global),
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.command {
        Command::Train(train) => train::run(&arguments.global, train),
        Command::Infer(infer) => infer::run(&arguments.global, infer),
        Command::Eval(eval) => eval::run(&arguments.global, eval),
        Command::Doctor { cases } => doctor::run(&arguments.global, cases),
    }
}
