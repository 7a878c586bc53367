//! `infer chat`, with lines from a pipe.

use serde_json::Value;

use crate::setup::{CELLS, counts_model, fail, run};

fn chat(more: &[&str], input: &str) -> (String, String) {
    let arguments = ["infer", "chat", "--model", counts_model(), "--cells", CELLS, "--max-new-tokens", "8"];
    let output = run(&[&arguments[..], more].concat(), input);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{more:?}: {err}");
    (out, err)
}

fn turns(more: &[&str], input: &str) -> Vec<Value> {
    let (out, _) = chat(&[more, &["--json"]].concat(), input);
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn lines_are_answered_until_the_input_ends() {
    let questions = "What type of cell is this?\n\nAnd which genes does it express?\n";
    let answers = turns(&[], questions);
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|turn| turn["answer"].is_string() && turn["score"].as_f64().unwrap() <= 0.0 && turn["forgot"] == false));
    // Shown as it is written, the same.
    let (out, err) = chat(&[], questions);
    let expected: String = answers.iter().map(|turn| format!("{}\n", turn["answer"].as_str().unwrap())).collect();
    assert_eq!(out, expected);
    assert!(err.contains(answers[0]["cell"].as_str().unwrap()));
    assert_eq!(chat(&["--quiet"], "").1, "", "no line, no answer");
    // The empty line asks what training asked: alone it gets what `describe` writes greedily.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("d.jsonl").to_string_lossy().into_owned();
    let describe = ["infer", "describe", "--model", counts_model(), "--cells", CELLS, "--output", &file];
    crate::setup::succeed(&[&describe[..], &["--max-new-tokens", "8", "--num-beams", "1", "--min-length", "0"]].concat());
    let line = std::fs::read_to_string(&file).unwrap().lines().next().unwrap().to_string();
    let described: Value = serde_json::from_str(&line).unwrap();
    let alone = turns(&[], "\n");
    assert_eq!(alone[0]["cell"], described["cell"]);
    assert_eq!(alone[0]["answer"].as_str().unwrap().trim(), described["description"].as_str().unwrap());
}

#[test]
fn cells_and_groups_are_chosen_and_long_talks_forget() {
    let group = turns(&["--group-key", "cell_type", "--group", "B cell"], "What is it?\n");
    let named = turns(&["--cell", group[0]["cell"].as_str().unwrap()], "What is it?\n");
    assert_eq!(group, named);
    // 96 positions are soon full.
    let long = turns(&[], &"Is it a B cell or a T cell or a monocyte of the blood?\n".repeat(6));
    assert!(long.len() == 6 && long.iter().any(|turn| turn["forgot"] == true) && long[0]["forgot"] == false);
    assert_eq!(long.iter().find(|turn| turn["forgot"] == true).unwrap()["answer"], long[0]["answer"], "it begins anew");

    let refused = |code, more: &[&str]| fail(code, &[&["infer", "chat", "--model", counts_model(), "--cells", CELLS][..], more].concat());
    assert!(refused(3, &["--cell", "nobody"]).contains("nobody"));
    assert!(refused(3, &["--group-key", "cell_type", "--group", "space cell"]).contains("space cell"));
    assert!(refused(2, &["--temperature", "2"]).contains("do-sample"));
    let stage1 = format!("{}/stage1", counts_model());
    assert!(fail(4, &["infer", "chat", "--model", &stage1, "--cells", CELLS]).contains("[stage2]"));
}
