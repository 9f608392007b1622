//! libFuzzer's entry to [`ftp_fuzz::wire`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftp_fuzz::wire::run(data));
