//! The memory plan of `--dry-run` beside what the process really takes.

#[path = "program/mod.rs"]
mod program;
#[path = "program/run.rs"]
mod run;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use program::{program, root};
use serde_json::{Value, json};

/// Arguments of `train` for a configuration with these settings.
fn train(config: &str, out: &std::path::Path, settings: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = ["train", "--config", config, "--out"].map(String::from).to_vec();
    arguments.push(out.to_str().unwrap().into());
    arguments.extend(settings.iter().flat_map(|setting| ["--set".to_string(), setting.to_string()]));
    arguments
}

fn planned(arguments: &[String], more: &[&str]) -> Value {
    let all: Vec<&str> = arguments.iter().map(String::as_str).chain(["--dry-run", "--json"]).chain(more.iter().copied()).collect();
    serde_json::from_str(&run::succeed(&all)).unwrap()
}

/// The plan of the largest stage, in bytes.
fn largest(plan: &Value) -> f64 {
    plan["stages"].as_array().unwrap().iter().map(|stage| stage["bytes"].as_f64().unwrap()).fold(0.0, f64::max)
}

/// Runs the program; the most memory that it held, in bytes.
fn peak(arguments: &[String]) -> f64 {
    let mut child =
        Command::new(program()).args(arguments).current_dir(root()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let path = format!("/proc/{}/status", child.id());
    let mut most = 0.0f64;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let status = fs::read_to_string(&path).unwrap_or_default();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        most = most.max(kilobytes.unwrap_or(0.0) * 1024.0);
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{arguments:?}");
    most
}

fn compare(config: &str, settings: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let arguments = train(config, &folder.path().join("run"), settings);
    let (plan, peak) = (largest(&planned(&arguments, &[])), peak(&arguments));
    let ratio = peak / plan;
    println!("{config}: planned {:.0} MiB, taken {:.0} MiB, {ratio:.3}", plan / 1048576.0, peak / 1048576.0);
    assert!((0.9..1.1).contains(&ratio), "{config}: planned {plan}, taken {peak}");
}

/// One test: side by side they would want the memory of all.
#[test]
fn a_plan_is_within_a_tenth_of_what_is_taken() {
    let all = ["data.test_fraction=0", "data.tokens.max_seq_len=64", "train.epochs=1"];
    let with = |settings: &[&'static str]| [&all[..], settings].concat();
    let encoder = ["train.batch_size=512", "data.tokens.max_seq_len=128", "model.hidden_size=64", "model.num_hidden_layers=4"];
    compare("configs/annotate.toml", &with(&encoder));
    compare("configs/cell_text.toml", &with(&["stage1.train.epochs=1", "stage1.train.batch_size=320", "text.max_length=48"]));
    let language = ["stage1.train.epochs=1", "stage2.train.epochs=1", "stage2.train.batch_size=160", "stage2.expression.zero_genes=100"];
    compare("configs/cell_language.toml", &with(&language));
}

/// Sizes of Llama-2-7B; without its weights, which a plan does not need.
#[test]
fn a_large_model_can_be_planned_before_it_is_there_and_not_trained() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("llama");
    fs::create_dir(&model).unwrap();
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    fs::copy(root().join("tests/data/language_tokenizer.json"), model.join("tokenizer.json")).unwrap();
    let path = format!("language.path={}", model.to_str().unwrap());
    let tokenizer = format!("language.tokenizer={}", model.join("tokenizer.json").to_str().unwrap());
    let settings =
        [&path, &tokenizer, "stage2.tuning.mode=lora", "stage2.tuning.gradient_checkpointing=true", "stage2.train.batch_size=32"];
    let out = folder.path().join("run");
    let arguments = train("configs/cell_language.toml", &out, &settings);
    let stage = |devices: &str| planned(&arguments, &["--devices", devices])["stages"][2].clone();
    let plans = ["1", "2", "4", "8"].map(stage);
    let class = |plan: &Value, name: &str| -> f64 {
        let classes = plan["classes"].as_array().unwrap().iter();
        classes.filter(|class| class["class"] == name).map(|class| class["bytes"].as_f64().unwrap()).sum()
    };
    // 2 x 32000 x 4096 for words, 32 layers of four attention products, three of the feed-forward part and two norms, and the last norm.
    let base = 2.0 * 32e3 * 4096.0 + 32.0 * (4.0 * 4096.0 * 4096.0 + 3.0 * 4096.0 * 11008.0 + 2.0 * 4096.0) + 4096.0;
    for pair in plans.windows(2) {
        assert_eq!(class(&pair[0], "weights"), class(&pair[1], "weights"), "every device holds all weights");
        let (more, fewer) = (class(&pair[0], "activations"), class(&pair[1], "activations"));
        assert!(fewer < 0.6 * more && fewer > 0.45 * more, "half the batch takes {fewer} of {more}");
    }
    assert!(class(&plans[0], "weights") > 4.0 * base && class(&plans[0], "weights") < 4.05 * base);
    // Adapters learn, not what they stand beside.
    assert!(class(&plans[0], "optimizer") < 0.01 * class(&plans[0], "weights"));

    let message = run::fail(4, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(message.contains("model.safetensors"), "{message}");
    assert!(!out.exists(), "a run that cannot begin leaves nothing behind");
}
