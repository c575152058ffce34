//! Lines for the operator's log and the decision's record: the one thing that a
//! policy may do besides answering. Natively they go to stderr.

pub use crate::wire::vocabulary::vmgroup::policy::log::Level;

/// Writes one line. The macros [`info!`](crate::info) and its like, at the root of
/// the crate, are more comfortable.
pub fn write(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::wire::vocabulary::vmgroup::policy::log::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    std::eprintln!("{level:?}: {message}");
}

macro_rules! level_macro {
    ($($(#[$doc:meta])* $name:ident $level:ident),*) => {
        level_macro! { @ ($) $($(#[$doc])* $name $level),* }
    };
    (@ ($dollar:tt) $($(#[$doc:meta])* $name:ident $level:ident),*) => { $(
        $(#[$doc])*
        #[macro_export]
        macro_rules! $name {
            ($dollar($dollar argument:tt)+) => {
                $crate::log::write(
                    $crate::log::Level::$level,
                    &::std::format!($dollar($dollar argument)+),
                )
            };
        }
    )* };
}

level_macro! {
    /// What only helps whoever debugs the policy line by line.
    trace Trace,
    /// What helps to understand one decision.
    debug Debug,
    /// What is worth knowing of a decision.
    info Info,
    /// What should not be so, although there is an answer.
    warn Warn,
    /// Why there is no answer.
    error Error
}
