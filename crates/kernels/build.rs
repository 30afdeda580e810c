//! Sets `cfg(vector_kernels)` where there are kernels for more than the scalar ISA: on x86-64, unless the feature
//! `scalar-only` builds there what every other architecture gets.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(vector_kernels)");
    println!("cargo::rerun-if-changed=build.rs");
    let x86_64 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    if x86_64 && std::env::var_os("CARGO_FEATURE_SCALAR_ONLY").is_none() {
        println!("cargo::rustc-cfg=vector_kernels");
    }
}
