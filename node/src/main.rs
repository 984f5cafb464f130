//! The binary `cairn`: argv, configuration, model files, HTTP and the terminal.
//!
//! Only this crate reads the environment and prints. It decides nothing about
//! the cluster: that is `cairn-machine`, behind `cairn-actors`.
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod client;
mod config;
mod demo;
mod exit;
mod home;
mod http;
mod join;
mod models;
mod observe;
mod plan_view;
mod signals;
mod terminal;
mod up;
mod whatif;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use exit::Failure;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Up(args) => up::run(*args),
        Command::Demo(args) => demo::run(&args),
        Command::Ask(args) => client::ask::run(&args),
        Command::Chat(args) => client::chat::run(&args),
        Command::Status(args) => client::status::run(&args),
        Command::Plan(args) => client::plan::run(&args),
        Command::Logs(args) => client::logs::run(&args),
        Command::Models(args) => models::command::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
