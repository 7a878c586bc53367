//! From errors to messages and exit codes.

use std::process::ExitCode;

use scmmgpt_engine::Error;

use crate::arguments::Global;

/// Prints an error with its causes, as JSON if asked for, and picks the exit code.
pub(crate) fn report(error: &anyhow::Error, global: &Global) -> ExitCode {
    let code = error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map_or(1, code);
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    // A transparent wrapper repeats its cause.
    let mut text: Vec<String> = Vec::new();
    for part in chain {
        if !text.iter().any(|earlier| earlier.contains(&part)) {
            text.push(part);
        }
    }
    let message = text.join(": ");
    eprintln!("{}: {message}", if code == 75 { "stopped" } else { "error" });
    if global.json {
        println!("{}", serde_json::json!({ "error": message, "exit_code": code }));
    }
    ExitCode::from(code)
}

fn code(error: &Error) -> u8 {
    match error {
        Error::ConfigSyntax { .. } | Error::Override { .. } | Error::Setting { .. } | Error::OutputExists { .. } => 2,
        Error::Labels { .. } | Error::Pairs { .. } | Error::Metric(_) | Error::Query { .. } | Error::Texts { .. } => 3,
        Error::Loader(error) => loader_code(error),
        Error::ModelFolder { .. }
        | Error::Incapable { .. }
        | Error::Resume { .. }
        | Error::IndexModel { .. }
        | Error::BertMismatch { .. }
        | Error::Json { .. } => 4,
        Error::Kernel(error) => kernel_code(error),
        Error::Stopped { .. } => 75,
        _ => 1,
    }
}

fn kernel_code(error: &scmmgpt_engine::KernelError) -> u8 {
    use scmmgpt_engine::KernelError as Kernel;
    match error {
        Kernel::OutOfMemory { .. } => 5,
        Kernel::DeviceUnavailable { .. }
        | Kernel::DriverNotFound { .. }
        | Kernel::DriverTooOld { .. }
        | Kernel::Driver { .. }
        | Kernel::DeviceFault { .. }
        | Kernel::Ptx { .. }
        | Kernel::NoCudaKernel { .. } => 6,
        _ => 1,
    }
}

fn loader_code(error: &scmmgpt_engine::LoaderError) -> u8 {
    use scmmgpt_engine::LoaderError as Loader;
    match error {
        Loader::OutputExists { .. } | Loader::OutputIsInput { .. } | Loader::Setting { .. } => 2,
        Loader::NoCheckpoint { .. } | Loader::MissingTensor { .. } | Loader::Tensors { .. } | Loader::VocabMismatch { .. } => 4,
        Loader::Io { action, .. } if *action != "open" && *action != "read" => 1,
        _ => 3,
    }
}
