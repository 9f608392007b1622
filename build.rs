//! Tells the glue which nginx it is built for.
fn main() {
    println!("cargo::rustc-check-cfg=cfg(nginx_listen_in_ports)");
    let version = std::env::var("DEP_NGINX_VERSION_NUMBER")
        .ok()
        .and_then(|number| number.parse::<u32>().ok());
    // 1.25.5 moved the listening sockets from `cmcf->listen` to `cmcf->ports`.
    if version.is_some_and(|number| number >= 1_025_005) {
        println!("cargo::rustc-cfg=nginx_listen_in_ports");
    }
}
