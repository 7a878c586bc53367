//! What is not supported is said with its line, before anything runs.

use scmmgpt_emulator::{Config, Device, Error};

fn refused(body: &str, what: &str) {
    let text = format!(".version 7.8\n.target sm_80\n.address_size 64\n{body}");
    match Device::new(Config::default()).load(&text).err() {
        Some(error @ Error::Unsupported { line, .. }) => {
            let message = error.to_string();
            assert!(line > 3 && message.contains(what), "{message}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn recursion_pointers_and_missing_bodies() {
    let function = ".func (.param .b32 r) f(.param .b32 a)\n{\n.param .b32 x; .param .b32 y;\n";
    let call = "call.uni (y), f, (x);\nret;\n}\n";
    let entry = ".visible .entry k()\n{\n.param .b32 x; .param .b32 y;\ncall.uni (y), f, (x);\nret;\n}";
    refused(&format!("{function}{call}{entry}"), "recursion");
    let through = ".func g()\n{\n.reg .b64 %rd<2>;\ncall %rd1, (), p;\nret;\n}\n.visible .entry k()\n{\ncall.uni g, ();\nret;\n}";
    refused(through, "pointer");
    refused(
        ".extern .func (.param .b32 r) malloc(.param .b64 a);\n.visible .entry k()\n{\n.param .b32 y; .param .b64 x;\ncall.uni (y), malloc, (x);\nret;\n}",
        "malloc",
    );
}

#[test]
fn textures_and_unknown_modifiers() {
    refused(".global .texref t;\n", "texref");
    let entry = |line: &str| format!(".visible .entry k()\n{{\n.reg .f32 %f<9>; .reg .b32 %r<9>; .reg .b64 %rd<2>;\n{line}\nret;\n}}");
    refused(&entry("tex.1d.v4.f32.s32 {%f1,%f2,%f3,%f4}, [%rd1, {%r1}];"), "textures");
    refused(&entry("mov.u32 %r1, %envreg2;"), "whole grid");
    refused(&entry("mov.u32 %r1, %reserved_smem_offset_1;"), "more than a warp");
    refused(&entry("max.xorsign.abs.f32 %f1, %f2, %f3;"), "max.xorsign");
    refused(&entry("mad.hi.sat.s32 %r1, %r2, %r3, %r4;"), "mad.hi.sat");
    refused(&entry("vabsdiff4.u32.u32.u32 %r1, %r2, %r3, %r4;"), "vabsdiff4");
    refused(&entry("atom.global.max.f16x2 %r1, [%rd1], %r2;"), "atom");
}
