//! libFuzzer's entry to [`ftp_fuzz::session`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ftp_fuzz::session::run(data));
