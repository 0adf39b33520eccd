//! The example in `examples/`, as a module of the tests: so it is always the one that is there, and
//! nothing is linked for it.

#[path = "../examples/classify.rs"]
mod classify;

#[test]
fn the_example_tells_the_classes_of_two_pictures() {
    let guesses = classify::classify().unwrap();
    for classify::Guess { class, guess, probability } in &guesses {
        assert_eq!(guess, class);
        assert!((0.1..=1.0).contains(probability), "{probability}");
    }
    assert_ne!(guesses[0].class, guesses[1].class);
    classify::main().unwrap();
}
