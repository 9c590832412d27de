//! What happens when the program finds itself wrong.

/// Ends the process, naming the invariant that does not hold. Going on would risk what is stored; input and I/O
/// never lead here.
pub fn broken(name: &str) -> ! {
    eprintln!("just_storage: broken invariant: {name}");
    std::process::abort()
}
