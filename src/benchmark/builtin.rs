//! The recipes that the program has.

macro_rules! recipes {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("../../data/recipes/", $name, ".toml"))),)*]
    };
}

/// Names and texts.
const RECIPES: &[(&str, &str)] = recipes![
    "b0-inc10-cifar-100",
    "b0-inc20-cub-200",
    "b0-inc20-imagenet-r",
    "cars-196",
    "cifar-100",
    "cub-200",
    "eurosat",
    "imagenet-r",
    "isic",
];

pub fn names() -> Vec<&'static str> {
    RECIPES.iter().map(|(name, _)| *name).collect()
}

pub fn text(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(own, _)| *own == name).map(|(_, text)| *text)
}
