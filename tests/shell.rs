//! What a shell and `man` are told of the program, and the demo that it carries.

use std::{fs, path::Path, process::Command};

use tempfile::tempdir;

use crate::support::{files, kill_once, path, run, text};

#[test]
fn a_shell_completes_commands_and_options() {
    let dir = tempdir().unwrap();
    let script = dir.path().join("cgil.bash");
    fs::write(&script, run(&["completions", "bash"])).unwrap();
    let completed = |words: &str, word: usize| {
        let asked = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={word}; \
             _cgil cgil \"${{COMP_WORDS[{word}]}}\" \"${{COMP_WORDS[{word} - 1]}}\"; echo ${{COMPREPLY[@]}}",
            path(&script)
        );
        let output = Command::new("bash").args(["--norc", "-c", &asked]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(completed("cgil fit", 1), "fit-vae\n");
    assert_eq!(completed("cgil prompt-tune --pap", 2), "--paper\n");
    assert_eq!(completed("cgil fit-vae --generator mo", 3), "mog\n");
    for shell in ["elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]);
        assert!(script.contains("prompt-tune") && script.contains("replay-noise"), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page() {
    let dir = tempdir().unwrap();
    run(&["man", path(&dir.path().join("man/man1"))]);
    let pages = files(&dir.path().join("man/man1"));
    let page = |name: &str| String::from_utf8(pages[Path::new(name)].clone()).unwrap();
    assert!(page("cgil.1").contains("without keeping the images"));
    for command in run(&["--help"]).split_once("Commands:\n").unwrap().1.lines().take_while(|line| !line.is_empty()) {
        let name = command.split_whitespace().next().unwrap();
        if command.starts_with("  ") && !command.starts_with("   ") && name != "help" {
            assert!(page(&format!("cgil-{name}.1")).contains(".SH OPTIONS"), "{name}");
        }
    }
    assert!(page("cgil-baseline-lda.1").contains("shrinkage"));
    assert!(page("cgil-order.1").contains("A class order as a JSON list")); // which `-h` leaves out
}

#[test]
fn the_program_carries_the_demo() {
    let dir = tempdir().unwrap();
    let demo = dir.path().join("made/here");
    kill_once(&["demo", path(&demo)], || demo.join("run/streams").is_dir());
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo");
    for part in ["clip", "pictures"] {
        assert!(files(&demo.join(part)) == files(&data.join(part)), "{part} differs");
    }
    assert!(demo.join("run/sources/base/manifest.json").is_file());
}
