//! Choices of a few, each with a name that options, tables and manifests share.

/// A choice of a few.
pub trait Choice: Copy + PartialEq + Sized + 'static {
    /// Every choice, its name, and what it is.
    const ALL: &'static [(Self, &'static str, &'static str)];

    /// The name of a choice.
    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(choice, ..)| *choice == self).map_or("", |(_, name, _)| name)
    }

    /// The choice of a name.
    fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, own, _)| *own == name).map(|(choice, ..)| *choice)
    }
}

/// An enum of choices: after each its name, and what it is, in words for `--help`.
macro_rules! choices {
    ($(#[$about:meta])* pub enum $choices:ident { $($choice:ident = $name:literal: $help:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $choices {
            $(#[doc = $help] $choice,)*
        }

        impl $crate::choice::Choice for $choices {
            const ALL: &'static [(Self, &'static str, &'static str)] = &[$(($choices::$choice, $name, $help),)*];
        }

        impl std::fmt::Display for $choices {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str($crate::choice::Choice::name(*self))
            }
        }

        impl std::str::FromStr for $choices {
            type Err = String;

            fn from_str(name: &str) -> std::result::Result<Self, String> {
                let names = || {
                    let all = <Self as $crate::choice::Choice>::ALL.iter();
                    all.map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ")
                };
                $crate::choice::Choice::of(name).ok_or_else(|| format!("{name:?} is none of {}", names()))
            }
        }

        impl serde::Serialize for $choices {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str($crate::choice::Choice::name(*self))
            }
        }

        impl<'de> serde::Deserialize<'de> for $choices {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                name.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use choices;
