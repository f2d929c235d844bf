//! Makes the program a static image at the address where guests live.

fn main() {
    let script = std::env::var("DEP_GRACEFAULT_GUEST_LINKER_SCRIPT")
        .expect("gracefault-guest is a dependency");
    for argument in ["-nostdlib", "-static", "-no-pie", &format!("-T{script}")] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
